// SPDX-License-Identifier: GPL-2.0
//! Vectors: read as text, added, searched, and compared in user space.

use crate::error::Error;
use crate::ioctl::{self, Hit};
use std::fmt::Write;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// Rows of one length, one after the other.
#[derive(Debug, PartialEq, Eq)]
pub struct Rows {
    pub dimension: u32,
    pub elements: Vec<i16>,
}

impl Rows {
    pub fn count(&self) -> usize {
        self.elements.len() / self.dimension as usize
    }

    /// Rows that fit one call, so many at a time.
    pub fn batches(&self) -> std::slice::Chunks<'_, i16> {
        let dimension = self.dimension as usize;
        let rows = (ioctl::MAX_ADD_BYTES / 2 / dimension).max(1);
        self.elements.chunks(rows * dimension)
    }
}

/// One vector a line, elements separated by spaces or commas; empty lines do not count.
pub fn parse(text: &str) -> Result<Rows, String> {
    let (mut dimension, mut elements) = (0, Vec::new());
    for (index, line) in text.lines().enumerate() {
        let before = elements.len();
        let words = line.split(|c: char| c.is_whitespace() || c == ',');
        for word in words.filter(|word| !word.is_empty()) {
            let element: i16 = word
                .parse()
                .map_err(|_| format!("line {}: '{word}' is no element", index + 1))?;
            elements.push(element);
        }
        let length = elements.len() - before;
        if length == 0 {
            continue;
        }
        if dimension == 0 {
            dimension = length;
        }
        if length != dimension {
            return Err(format!(
                "line {} has {length} elements, the lines before it have {dimension}",
                index + 1
            ));
        }
    }
    if dimension == 0 {
        return Err("there is no vector on stdin".to_string());
    }
    let dimension = u32::try_from(dimension).map_err(|_| "the lines are too long".to_string())?;
    Ok(Rows {
        dimension,
        elements,
    })
}

pub fn add(path: &Path) -> Result<String, Error> {
    let mut text = String::new();
    io::stdin()
        .read_to_string(&mut text)
        .map_err(|error| Error::new(format!("cannot read stdin: {error}")))?;
    let rows = parse(&text).map_err(Error::new)?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .map_err(|error| Error::io("open", path, error))?;
    let first = add_all(&file, path, &rows)?;
    file.sync_all()
        .map_err(|error| Error::io("write to", path, error))?;
    Ok(format!(
        "{} vectors of {} dimensions added from row {first} on\n",
        rows.count(),
        rows.dimension
    ))
}

/// Add all rows, in as many calls as it takes; returns the number of the first one.
pub fn add_all(file: &File, path: &Path, rows: &Rows) -> Result<u64, Error> {
    let mut first = None;
    for batch in rows.batches() {
        let row = ioctl::add_vectors(file, rows.dimension, batch)
            .map_err(|error| Error::ioctl("ADD_VECTORS", path, error))?;
        first.get_or_insert(row);
    }
    first.ok_or_else(|| Error::new("there are no vectors to add"))
}

pub fn search(path: &Path, k: u32, query: &[i16]) -> Result<String, Error> {
    let file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let hits =
        ioctl::search(&file, query, k).map_err(|error| Error::ioctl("SEARCH", path, error))?;
    let mut text = String::new();
    for hit in hits {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}\t{}", hit.row, hit.distance);
    }
    Ok(text)
}

pub fn distance(a: &[i16], b: &[i16]) -> u64 {
    a.iter()
        .zip(b)
        .map(|(a, b)| {
            let difference = i64::from(*a) - i64::from(*b);
            (difference * difference) as u64
        })
        .sum()
}

/// What the kernel must find: the `k` nearest rows by comparing all, ties by row number.
pub fn nearest(rows: &Rows, query: &[i16], k: usize) -> Vec<Hit> {
    let mut hits: Vec<Hit> = rows
        .elements
        .chunks(rows.dimension as usize)
        .zip(0..)
        .map(|(row, number)| Hit {
            row: number,
            distance: distance(row, query),
        })
        .collect();
    hits.sort_by_key(|hit| (hit.distance, hit.row));
    hits.truncate(k);
    hits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_rows() {
        let rows = parse("1 2 3\n\n-4,5, 6\n").unwrap();
        assert_eq!(rows.dimension, 3);
        assert_eq!(rows.elements, [1, 2, 3, -4, 5, 6]);
        assert_eq!(rows.count(), 2);
    }

    #[test]
    fn wrong_lines_are_named() {
        assert!(parse("1 2\n3\n").unwrap_err().contains("line 2"));
        assert!(parse("1 x\n").unwrap_err().contains("'x'"));
        assert!(parse("1 40000\n").unwrap_err().contains("40000"));
        assert!(parse(" \n").is_err());
    }

    #[test]
    fn distance_of_the_extremes_does_not_overflow() {
        let (low, high) = (vec![i16::MIN; 4096], vec![i16::MAX; 4096]);
        assert_eq!(distance(&low, &high), 4096 * 65535 * 65535);
        assert_eq!(distance(&low, &low), 0);
    }

    #[test]
    fn nearest_are_sorted_and_ties_go_by_row() {
        let rows = parse("5 5\n0 0\n3 4\n4 3\n0 1\n").unwrap();
        let found: Vec<(u64, u64)> = nearest(&rows, &[0, 0], 4)
            .iter()
            .map(|hit| (hit.row, hit.distance))
            .collect();
        assert_eq!(found, [(1, 0), (4, 1), (2, 25), (3, 25)]);
    }

    #[test]
    fn fewer_rows_than_wanted_are_all_found() {
        let rows = parse("1\n2\n").unwrap();
        assert_eq!(nearest(&rows, &[0], 10).len(), 2);
    }

    #[test]
    fn batches_hold_whole_rows_within_the_limit() {
        let rows = Rows {
            dimension: 4096,
            elements: vec![0; 4096 * 2050],
        };
        let sizes: Vec<usize> = rows.batches().map(<[i16]>::len).collect();
        assert_eq!(sizes, [4096 * 2048, 4096 * 2]);
        assert!(sizes[0] * 2 <= ioctl::MAX_ADD_BYTES);
    }
}
