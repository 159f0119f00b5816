// SPDX-License-Identifier: GPL-2.0
//! Make a filesystem, on the right device and on no other.

use crate::disk::{get_u32, Layout, BLOCK_SIZE, LABEL_MAX, MAGIC};
use crate::error::Error;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// On a block device: fail with EBUSY while it is mounted, or part of something that is.
const O_EXCL: i32 = 0o200;
const EBUSY: i32 = 16;
/// Signatures of most filesystems and partition tables are in here.
const HEAD: usize = 64 << 10;

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Options {
    pub device: PathBuf,
    pub force: bool,
    pub label: String,
    pub inodes: Option<u32>,
}

pub fn run(options: &Options) -> Result<String, Error> {
    let path = &options.device;
    if options.label.len() > LABEL_MAX {
        return Err(Error::new(format!(
            "the label has {} bytes, {LABEL_MAX} are possible",
            options.label.len()
        )));
    }
    refuse_mounted(path)?;
    let mut device = open_exclusively(path)?;
    let size = device
        .seek(SeekFrom::End(0))
        .map_err(|error| Error::io("find the size of", path, error))?;
    let layout = Layout::of_size(size, options.inodes)
        .map_err(|reason| Error::new(format!("'{}': {reason}", path.display())))?;
    if !options.force {
        refuse_used(&mut device, path)?;
    }
    write(&mut device, &layout, &options.label)
        .map_err(|error| Error::io("write to", path, error))?;
    Ok(format!(
        "vexfs-ref on '{}': {} blocks, {} inodes, data from block {}\n",
        path.display(),
        layout.blocks,
        layout.inodes,
        layout.data
    ))
}

/// No option switches this off.
fn refuse_mounted(path: &Path) -> Result<(), Error> {
    let status = fs::metadata(path).map_err(|error| Error::io("find", path, error))?;
    let kind = status.file_type();
    if !kind.is_block_device() && !kind.is_file() {
        return Err(Error::new(format!(
            "'{}' is neither a block device nor an ordinary file",
            path.display()
        )));
    }
    if !kind.is_block_device() {
        return Ok(());
    }
    let mounts = Path::new("/proc/self/mountinfo");
    let table = fs::read_to_string(mounts).map_err(|error| Error::io("read", mounts, error))?;
    match mount_point(&table, status.rdev()) {
        Some(point) => Err(Error::new(format!(
            "'{}' is mounted on '{point}'; unmount it first",
            path.display()
        ))),
        None => Ok(()),
    }
}

/// Where the device with that number is mounted, by a mountinfo table: proc(5).
fn mount_point(table: &str, device: u64) -> Option<String> {
    let major = ((device >> 8) & 0xfff) | ((device >> 32) & !0xfff);
    let minor = (device & 0xff) | ((device >> 12) & !0xff);
    let wanted = format!("{major}:{}", minor & 0xffff_ffff);
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        (fields.len() > 4 && fields[2] == wanted).then(|| fields[4].to_string())
    })
}

fn open_exclusively(path: &Path) -> Result<File, Error> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(O_EXCL)
        .open(path)
        .map_err(|error| {
            if error.raw_os_error() == Some(EBUSY) {
                return Error::new(format!(
                    "'{}' is in use: mounted, or part of a device that is",
                    path.display()
                ));
            }
            Error::io("open", path, error)
        })
}

/// Without --force only blank media are formatted.
fn refuse_used(device: &mut File, path: &Path) -> Result<(), Error> {
    let mut head = Vec::new();
    device
        .seek(SeekFrom::Start(0))
        .and_then(|_| device.take(HEAD as u64).read_to_end(&mut head))
        .map_err(|error| Error::io("read", path, error))?;
    match content_of(&head) {
        None => Ok(()),
        Some(what) => Err(Error::new(format!(
            "'{}' is not blank, it holds {what}; if nothing on it is needed, say --force",
            path.display()
        ))),
    }
}

/// What the first bytes of a medium look like; None if they are all zeros.
fn content_of(head: &[u8]) -> Option<&'static str> {
    let at = |offset: usize, signature: &[u8]| {
        head.get(offset..offset + signature.len()) == Some(signature)
    };
    if head.iter().all(|byte| *byte == 0) {
        return None;
    }
    Some(if head.len() >= 8 && get_u32(head, 4) == MAGIC {
        "a vexfs-ref filesystem"
    } else if at(1080, &[0x53, 0xef]) {
        "an ext2, ext3 or ext4 filesystem"
    } else if at(0, b"XFSB") {
        "an XFS filesystem"
    } else if at(512, b"EFI PART") {
        "a GPT partition table"
    } else if at(510, &[0x55, 0xaa]) {
        "a boot sector or partition table"
    } else {
        "data"
    })
}

/// The old superblock goes first and the new one comes last: what was interrupted in between is
/// no filesystem. Every block of metadata is written, so nothing depends on blank media.
fn write(device: &mut File, layout: &Layout, label: &str) -> std::io::Result<()> {
    let zeros = [0; BLOCK_SIZE];
    let mut uuid = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut uuid)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| passed.as_secs());

    device.seek(SeekFrom::Start(0))?;
    device.write_all(&zeros)?;
    device.sync_all()?;
    for index in 0..layout.inode_bitmap_blocks {
        device.write_all(&layout.inode_bitmap_block(index))?;
    }
    for index in 0..layout.block_bitmap_blocks {
        device.write_all(&layout.block_bitmap_block(index))?;
    }
    device.write_all(&layout.first_inodes(now))?;
    for _ in 1..layout.inode_table_blocks {
        device.write_all(&zeros)?;
    }
    device.write_all(&layout.root_directory())?;
    device.sync_all()?;
    device.seek(SeekFrom::Start(0))?;
    device.write_all(&layout.superblock(&uuid, label))?;
    device.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::crc32;

    /// An image file of its own for each test, gone afterwards.
    struct Image(PathBuf);

    impl Image {
        fn new(name: &str, size: u64, byte: u8) -> Image {
            let path = std::env::temp_dir().join(format!("vexctl-{}-{name}", std::process::id()));
            fs::write(&path, vec![byte; size as usize]).unwrap();
            Image(path)
        }

        fn options(&self, force: bool) -> Options {
            Options {
                device: self.0.clone(),
                force,
                ..Options::default()
            }
        }
    }

    impl Drop for Image {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn formats_a_blank_image() {
        let image = Image::new("blank", 1 << 20, 0);
        let said = run(&image.options(false)).unwrap();
        assert!(said.contains("256 blocks"), "{said}");
        let bytes = fs::read(&image.0).unwrap();
        assert_eq!(get_u32(&bytes, 4), MAGIC);
        assert_eq!(get_u32(&bytes, 0), crc32(&bytes[4..BLOCK_SIZE]));
    }

    #[test]
    fn nothing_of_the_old_content_is_left_in_the_metadata() {
        let image = Image::new("noise", 1 << 20, 0xa5);
        run(&image.options(true)).unwrap();
        let bytes = fs::read(&image.0).unwrap();
        let layout = Layout::of_size(1 << 20, None).unwrap();
        let data = layout.data as usize * BLOCK_SIZE;
        let table = layout.inode_table as usize * BLOCK_SIZE + 256;
        assert!(bytes[table..data].iter().all(|byte| *byte == 0));
        assert_eq!(
            &bytes[data..data + BLOCK_SIZE],
            &layout.root_directory()[..]
        );
        assert!(bytes[data + BLOCK_SIZE..].iter().all(|byte| *byte == 0xa5));
    }

    #[test]
    fn used_media_need_force() {
        let image = Image::new("used", 1 << 20, 0);
        run(&image.options(false)).unwrap();
        let message = run(&image.options(false)).unwrap_err().to_string();
        assert!(message.contains("a vexfs-ref filesystem"), "{message}");
        assert!(run(&image.options(true)).is_ok());
    }

    #[test]
    fn too_small_media_stay_untouched() {
        let image = Image::new("small", 8192, 0x11);
        assert!(run(&image.options(true)).is_err());
        assert_eq!(fs::read(&image.0).unwrap(), vec![0x11; 8192]);
    }

    #[test]
    fn a_missing_device_is_not_made() {
        let options = Options {
            device: std::env::temp_dir().join("vexctl-no-such-device"),
            force: true,
            ..Options::default()
        };
        assert!(run(&options).is_err());
        assert!(!options.device.exists());
    }

    #[test]
    fn directories_and_character_devices_are_refused() {
        for path in ["/", "/dev/null"] {
            let options = Options {
                device: PathBuf::from(path),
                force: true,
                ..Options::default()
            };
            let message = run(&options).unwrap_err().to_string();
            assert!(message.contains("neither a block device"), "{message}");
        }
    }

    #[test]
    fn a_long_label_is_refused() {
        let image = Image::new("label", 1 << 20, 0);
        let mut options = image.options(false);
        options.label = "x".repeat(32);
        assert!(run(&options).is_err());
        options.label.pop();
        assert!(run(&options).is_ok());
    }

    #[test]
    fn mounted_devices_are_found_by_number() {
        let table = "22 27 0:20 / /proc rw - proc proc rw\n\
                     29 1 254:17 / /mnt/a\\040b rw,relatime - vexfs_ref /dev/vdb1 rw\n";
        let number = |major: u64, minor: u64| {
            ((major & 0xfff) << 8)
                | ((major & !0xfff) << 32)
                | (minor & 0xff)
                | ((minor & !0xff) << 12)
        };
        assert_eq!(
            mount_point(table, number(254, 17)),
            Some("/mnt/a\\040b".to_string())
        );
        assert_eq!(mount_point(table, number(254, 1)), None);
        assert_eq!(mount_point(table, number(0, 20)), Some("/proc".to_string()));
        assert_eq!(
            mount_point("1 2 259:70000 / /x rw", number(259, 70000)),
            Some("/x".to_string())
        );
    }

    #[test]
    fn signatures_have_names() {
        let mut head = vec![0; HEAD];
        assert_eq!(content_of(&head), None);
        head[1080] = 0x53;
        head[1081] = 0xef;
        assert_eq!(content_of(&head), Some("an ext2, ext3 or ext4 filesystem"));
        head[..4].copy_from_slice(b"XFSB");
        head[1080] = 0;
        assert_eq!(content_of(&head), Some("an XFS filesystem"));
        assert_eq!(content_of(&[1]), Some("data"));
    }
}
