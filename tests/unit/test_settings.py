"""Settings: the file, then VEXRUN_* variables on top of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vexrun.errors import ConfigError
from vexrun.settings import load_settings


def test_without_a_file_everything_has_a_default(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VEXRUN_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "nothing here"))
    settings = load_settings()
    assert (settings.image.mirror, settings.image.proxy) == (None, None)
    assert settings.image.extra_packages == []
    assert (settings.machine.memory_mib, settings.machine.cpus) == (2048, 2)


def test_a_file_that_vexrun_config_names_must_be_there(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = home / "typo.toml"
    monkeypatch.setenv("VEXRUN_CONFIG", str(missing))
    with pytest.raises(ConfigError, match="which VEXRUN_CONFIG names") as caught:
        load_settings()
    assert f"'{missing}'" in caught.value.message
    assert "unset" in caught.value.hint


def test_a_settings_file_that_is_a_directory_is_an_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEXRUN_CONFIG", str(home))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_settings()


def test_the_usual_place_is_read(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VEXRUN_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home / "with blank and é"))
    path = home / "with blank and é" / "vexrun" / "config.toml"
    path.parent.mkdir(parents=True)
    path.write_text('[image]\nmirror = "http://m/é"\n', encoding="utf-8")
    assert load_settings().image.mirror == "http://m/é"


def test_the_file_is_read(home: Path) -> None:
    (home / "config.toml").write_text(
        '[image]\nmirror = "http://m/debian"\nextra_packages = ["tree"]\n[machine]\ncpus = 4\n'
    )
    settings = load_settings()
    assert settings.image.mirror == "http://m/debian"
    assert settings.image.extra_packages == ["tree"]
    assert (settings.machine.cpus, settings.machine.memory_mib) == (4, 2048)


@pytest.mark.parametrize(
    ("variable", "value", "section", "key", "expected"),
    [
        ("VEXRUN_MIRROR", "http://e/debian", "image", "mirror", "http://e/debian"),
        ("VEXRUN_PROXY", "http://p:3128", "image", "proxy", "http://p:3128"),
        ("VEXRUN_EXTRA_PACKAGES", "tree htop", "image", "extra_packages", ["tree", "htop"]),
        ("VEXRUN_DISK_GIB", "20", "image", "disk_gib", 20),
        ("VEXRUN_RUST", "rustup", "image", "rust", "rustup"),
        ("VEXRUN_MEMORY_MIB", "1024", "machine", "memory_mib", 1024),
        ("VEXRUN_CPUS", "1", "machine", "cpus", 1),
    ],
)
def test_a_variable_beats_the_file(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    section: str,
    key: str,
    expected: object,
) -> None:
    (home / "config.toml").write_text(
        '[image]\nmirror = "http://m"\nproxy = "http://x"\nextra_packages = ["a"]\ndisk_gib = 9\n'
        "[machine]\nmemory_mib = 4096\ncpus = 8\n"
    )
    monkeypatch.setenv(variable, value)
    assert getattr(getattr(load_settings(), section), key) == expected


def test_an_empty_variable_says_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config.toml").write_text('[image]\nmirror = "http://m"\n')
    monkeypatch.setenv("VEXRUN_MIRROR", "")
    assert load_settings().image.mirror == "http://m"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[image]\nmiror = "x"', "'image.miror': unknown key; did you mean 'mirror'?"),
        ("[machines]\ncpus = 1", "'machines': unknown key; did you mean 'machine'?"),
        ("[machine]\nmemory_mib = 64", "'machine.memory_mib': "),
        ("[machine]\ncpus = 0", "'machine.cpus': "),
        ('[image]\nextra_packages = "tree"', "'image.extra_packages': "),
        ("[image]\ndisk_gib = 1", "'image.disk_gib': "),
        ('[image]\nrust = "auto"', "'image.rust': "),
        ("image = 5", "'image': "),
    ],
)
def test_a_wrong_setting_is_named(home: Path, text: str, words: str) -> None:
    (home / "config.toml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert f"'{home / 'config.toml'}'" in caught.value.message
    assert words in caught.value.evidence
    assert "docs/settings.md" in caught.value.hint


def test_a_wrong_variable_is_named_by_its_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEXRUN_CPUS", "two")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "VEXRUN_*" in caught.value.message
    assert "'machine.cpus'" in caught.value.evidence
    assert "(found 'two')" in caught.value.evidence


def test_a_variable_on_top_of_a_section_that_is_none(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config.toml").write_text("machine = 5\n")
    monkeypatch.setenv("VEXRUN_CPUS", "2")
    with pytest.raises(ConfigError) as caught:
        load_settings()
    assert "'machine': " in caught.value.evidence


@pytest.mark.parametrize("text", [b"[image", b"\xff", b"a = " + b"1" * 5000])
def test_what_is_not_toml_is_called_so(home: Path, text: bytes) -> None:
    (home / "config.toml").write_bytes(text)
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load_settings()
