// SPDX-License-Identifier: GPL-2.0
//! The command line.

use crate::bench;
use crate::mkfs;
use std::path::PathBuf;
use std::str::FromStr;

pub const USAGE: &str = "\
usage: vexctl status MOUNT
       vexctl mkfs [--force] [--label TEXT] [--inodes N] DEVICE
       vexctl vectors add FILE                 one vector a line on stdin: whole numbers
       vexctl vectors search FILE [-k N] NUMBER...
       vexctl bench MOUNT [--json] [--vectors N] [--dimension N] [--queries N]
       vexctl --help";

#[derive(Debug, PartialEq, Eq)]
pub enum Command {
    Help,
    Status {
        mount: PathBuf,
    },
    Mkfs(mkfs::Options),
    Add {
        file: PathBuf,
    },
    Search {
        file: PathBuf,
        k: u32,
        query: Vec<i16>,
    },
    Bench(bench::Options),
}

/// Words that begin with a dash and a letter are options; -5 is a number.
fn is_option(word: &str) -> bool {
    word.starts_with('-') && word[1..].starts_with(|c: char| !c.is_ascii_digit())
}

fn number<T: FromStr>(what: &str, word: Option<&String>) -> Result<T, String> {
    let word = word.ok_or_else(|| format!("{what} needs a number"))?;
    word.parse()
        .map_err(|_| format!("{what} cannot be '{word}'"))
}

fn one_path(what: &str, words: &[String]) -> Result<PathBuf, String> {
    match words {
        [path] if !is_option(path) => Ok(PathBuf::from(path)),
        [] => Err(format!("{what} is missing")),
        _ => Err(format!("expected {what} alone, got '{}'", words.join(" "))),
    }
}

pub fn parse(words: &[String]) -> Result<Command, String> {
    let (name, rest) = words.split_first().ok_or("a command is missing")?;
    match name.as_str() {
        "--help" | "-h" | "help" => Ok(Command::Help),
        "status" => Ok(Command::Status {
            mount: one_path("MOUNT", rest)?,
        }),
        "mkfs" => parse_mkfs(rest),
        "vectors" => parse_vectors(rest),
        "bench" => parse_bench(rest),
        _ => Err(format!("there is no command '{name}'")),
    }
}

fn parse_mkfs(words: &[String]) -> Result<Command, String> {
    let mut options = mkfs::Options::default();
    let mut paths = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--force" => options.force = true,
            "--label" => options.label = words.next().ok_or("--label needs a text")?.clone(),
            "--inodes" => options.inodes = Some(number("--inodes", words.next())?),
            other if is_option(other) => return Err(format!("mkfs has no option '{other}'")),
            other => paths.push(other.to_string()),
        }
    }
    options.device = one_path("DEVICE", &paths)?;
    Ok(Command::Mkfs(options))
}

fn parse_vectors(words: &[String]) -> Result<Command, String> {
    let (name, rest) = words
        .split_first()
        .ok_or("'vectors' needs 'add' or 'search'")?;
    match name.as_str() {
        "add" => Ok(Command::Add {
            file: one_path("FILE", rest)?,
        }),
        "search" => {
            let (mut k, mut file, mut query) = (10, None, Vec::new());
            let mut rest = rest.iter();
            while let Some(word) = rest.next() {
                if word == "-k" {
                    k = number("-k", rest.next())?;
                } else if is_option(word) {
                    return Err(format!("'vectors search' has no option '{word}'"));
                } else if file.is_none() {
                    file = Some(PathBuf::from(word));
                } else {
                    query.push(number("an element", Some(word))?);
                }
            }
            let file = file.ok_or("FILE is missing")?;
            if query.is_empty() {
                return Err("the vector to search for is missing".to_string());
            }
            Ok(Command::Search { file, k, query })
        }
        _ => Err(format!("there is no command 'vectors {name}'")),
    }
}

fn parse_bench(words: &[String]) -> Result<Command, String> {
    let mut options = bench::Options::default();
    let mut paths = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--json" => options.json = true,
            "--vectors" => options.vectors = number("--vectors", words.next())?,
            "--dimension" => options.dimension = number("--dimension", words.next())?,
            "--queries" => options.queries = number("--queries", words.next())?,
            other if is_option(other) => return Err(format!("bench has no option '{other}'")),
            other => paths.push(other.to_string()),
        }
    }
    options.mount = one_path("MOUNT", &paths)?;
    if options.vectors == 0 || options.dimension == 0 || options.queries == 0 {
        return Err("bench needs at least one vector, one dimension and one query".to_string());
    }
    Ok(Command::Bench(options))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, String> {
        let words: Vec<String> = line.split_whitespace().map(String::from).collect();
        parse(&words)
    }

    #[test]
    fn status_takes_one_path() {
        let mount = PathBuf::from("/mnt");
        assert_eq!(parsed("status /mnt"), Ok(Command::Status { mount }));
        assert!(parsed("status").is_err());
        assert!(parsed("status /mnt /other").is_err());
    }

    #[test]
    fn mkfs_options_come_in_any_order() {
        let expected = mkfs::Options {
            device: PathBuf::from("/dev/x"),
            force: true,
            label: "name".to_string(),
            inodes: Some(64),
        };
        let first = parsed("mkfs --force --label name --inodes 64 /dev/x");
        let second = parsed("mkfs /dev/x --inodes 64 --label name --force");
        assert_eq!(first, Ok(Command::Mkfs(expected)));
        assert_eq!(first, second);
    }

    #[test]
    fn mkfs_never_guesses() {
        assert!(parsed("mkfs").is_err());
        assert!(parsed("mkfs /dev/a /dev/b").is_err());
        assert!(parsed("mkfs --frce /dev/a").is_err());
        assert!(parsed("mkfs --inodes many /dev/a").is_err());
    }

    #[test]
    fn negative_elements_are_no_options() {
        let expected = Command::Search {
            file: PathBuf::from("f"),
            k: 3,
            query: vec![-5, 7],
        };
        assert_eq!(parsed("vectors search f -k 3 -5 7"), Ok(expected));
    }

    #[test]
    fn elements_have_sixteen_bits() {
        assert!(parsed("vectors search f 32767 -32768").is_ok());
        assert!(parsed("vectors search f 32768").is_err());
    }

    #[test]
    fn bench_of_nothing_is_refused() {
        assert!(parsed("bench /mnt --json").is_ok());
        assert!(parsed("bench /mnt --vectors 0").is_err());
    }
}
