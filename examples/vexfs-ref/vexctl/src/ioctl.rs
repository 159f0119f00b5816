// SPDX-License-Identifier: GPL-2.0
//! The ioctls of vexfs_ref_fs.h. The only unsafe code of vexctl is in here.

use std::fs::File;
use std::io;
use std::os::raw::{c_int, c_ulong};
use std::os::unix::io::AsRawFd;

pub const HAS_VECTORS: u32 = 1;
pub const MAX_ADD_BYTES: usize = 16 << 20;

#[repr(C)]
#[derive(Debug, Default)]
pub struct Status {
    pub version: u32,
    pub block_size: u32,
    pub blocks: u64,
    pub free_blocks: u64,
    pub inodes: u64,
    pub free_inodes: u64,
    pub flags: u32,
    pub max_dimension: u32,
}

#[repr(C)]
#[derive(Default)]
struct AddVectors {
    dimension: u32,
    count: u32,
    vectors: u64,
    first_row: u64,
    flags: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hit {
    pub row: u64,
    pub distance: u64,
}

#[repr(C)]
#[derive(Default)]
struct Search {
    dimension: u32,
    k: u32,
    query: u64,
    hits: u64,
    found: u32,
    flags: u32,
    rows: u64,
}

/// include/uapi/asm-generic/ioctl.h: direction, size, type and number in one word.
const fn request(direction: c_ulong, number: c_ulong, size: usize) -> c_ulong {
    (direction << 30) | ((size as c_ulong) << 16) | (0xe7 << 8) | number
}

const READ: c_ulong = 2;
const READ_WRITE: c_ulong = 3;
const STATUS: c_ulong = request(READ, 1, std::mem::size_of::<Status>());
const ADD_VECTORS: c_ulong = request(READ_WRITE, 2, std::mem::size_of::<AddVectors>());
const SEARCH: c_ulong = request(READ_WRITE, 3, std::mem::size_of::<Search>());

extern "C" {
    fn ioctl(fd: c_int, request: c_ulong, ...) -> c_int;
}

/// # Safety
/// `T` must be the structure that `request` reads and writes, and every address in it must be
/// that of memory which lives until this returns, with the length the structure says.
unsafe fn call<T>(file: &File, request: c_ulong, argument: &mut T) -> io::Result<()> {
    if ioctl(file.as_raw_fd(), request, argument as *mut T) == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub fn status(file: &File) -> io::Result<Status> {
    let mut status = Status::default();
    // SAFETY: STATUS writes a Status, which holds no addresses.
    unsafe { call(file, STATUS, &mut status)? };
    Ok(status)
}

/// Add the rows of `vectors`, `dimension` elements each; returns the number of the first one.
pub fn add_vectors(file: &File, dimension: u32, vectors: &[i16]) -> io::Result<u64> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidInput);
    if dimension == 0 || vectors.len() % dimension as usize != 0 {
        return Err(invalid());
    }
    let little: Vec<i16> = vectors.iter().map(|element| element.to_le()).collect();
    let mut argument = AddVectors {
        dimension,
        count: u32::try_from(vectors.len() / dimension as usize).map_err(|_| invalid())?,
        vectors: little.as_ptr() as u64,
        ..AddVectors::default()
    };
    // SAFETY: the kernel reads count * dimension elements from `little`, which has as many.
    unsafe { call(file, ADD_VECTORS, &mut argument)? };
    Ok(argument.first_row)
}

/// The up to `k` rows nearest to `query`, nearest first.
pub fn search(file: &File, query: &[i16], k: u32) -> io::Result<Vec<Hit>> {
    let little: Vec<i16> = query.iter().map(|element| element.to_le()).collect();
    let mut hits = vec![Hit::default(); k as usize];
    let mut argument = Search {
        dimension: u32::try_from(query.len())
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?,
        k,
        query: little.as_ptr() as u64,
        hits: hits.as_mut_ptr() as u64,
        ..Search::default()
    };
    // SAFETY: the kernel reads `dimension` elements from `little` and writes at most `k` hits;
    // both have as many, and a Hit may hold any bytes.
    unsafe { call(file, SEARCH, &mut argument)? };
    hits.truncate(argument.found as usize);
    Ok(hits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::size_of;

    #[test]
    fn structures_have_the_sizes_of_the_header() {
        assert_eq!(size_of::<Status>(), 48);
        assert_eq!(size_of::<AddVectors>(), 32);
        assert_eq!(size_of::<Hit>(), 16);
        assert_eq!(size_of::<Search>(), 40);
    }

    #[test]
    fn request_numbers() {
        assert_eq!(STATUS, 0x8030_e701);
        assert_eq!(ADD_VECTORS, 0xc020_e702);
        assert_eq!(SEARCH, 0xc028_e703);
    }

    #[test]
    fn another_filesystem_does_not_answer() {
        let error = status(&File::open("/proc").unwrap()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(25)); // ENOTTY
    }

    #[test]
    fn rows_that_do_not_come_out_even_never_reach_the_kernel() {
        let file = File::open("/dev/null").unwrap();
        let error = add_vectors(&file, 3, &[1, 2, 3, 4]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let error = add_vectors(&file, 0, &[]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
