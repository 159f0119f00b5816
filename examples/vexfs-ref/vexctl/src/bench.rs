// SPDX-License-Identifier: GPL-2.0
//! How fast vectors go in and are found, and whether what is found is right.

use crate::error::Error;
use crate::ioctl::{self, Hit};
use crate::vectors::{add_all, nearest, Rows};
use std::fs::{self, File, OpenOptions};
use std::path::PathBuf;
use std::time::{Duration, Instant};

const K: usize = 10;

#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    pub mount: PathBuf,
    pub json: bool,
    pub vectors: usize,
    pub dimension: u32,
    pub queries: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            mount: PathBuf::new(),
            json: false,
            vectors: 10_000,
            dimension: 64,
            queries: 20,
        }
    }
}

/// A file that is removed again, however the benchmark ends.
struct Scratch {
    path: PathBuf,
    file: File,
}

impl Scratch {
    fn create(mount: &std::path::Path) -> Result<Scratch, Error> {
        let path = mount.join(format!(".vexctl-bench-{}", std::process::id()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| Error::io("create", &path, error))?;
        Ok(Scratch { path, file })
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!("vexctl: cannot remove '{}': {error}", self.path.display());
        }
    }
}

/// xorshift64*: the same vectors in every run, so that runs can be compared.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Between -1024 and 1023, as quantised embeddings are.
    fn element(&mut self) -> i16 {
        (self.next() >> 53) as i16 - 1024
    }

    fn elements(&mut self, count: usize) -> Vec<i16> {
        (0..count).map(|_| self.element()).collect()
    }
}

/// The value below which `percent` of the durations are, in milliseconds.
fn percentile_ms(sorted: &[Duration], percent: usize) -> f64 {
    let index = (sorted.len() * percent / 100).min(sorted.len() - 1);
    sorted[index].as_secs_f64() * 1000.0
}

/// The share of the right rows that were found.
fn recall(found: &[Hit], right: &[Hit]) -> f64 {
    let hits = right.iter().filter(|hit| found.contains(hit)).count();
    hits as f64 / right.len() as f64
}

#[derive(Debug)]
struct Outcome {
    ingest_vectors_per_s: f64,
    search_ms_p50: f64,
    search_ms_p95: f64,
    recall_at_10: f64,
}

fn measure(options: &Options) -> Result<Outcome, Error> {
    let dimension = options.dimension as usize;
    let mut random = Random(0x7665_7866);
    let rows = Rows {
        dimension: options.dimension,
        elements: random.elements(options.vectors * dimension),
    };
    let scratch = Scratch::create(&options.mount)?;

    let begun = Instant::now();
    add_all(&scratch.file, &scratch.path, &rows)?;
    scratch
        .file
        .sync_all()
        .map_err(|error| Error::io("write to", &scratch.path, error))?;
    let ingest = begun.elapsed().as_secs_f64();

    let (mut times, mut recalled) = (Vec::new(), 0.0);
    for _ in 0..options.queries {
        let query = random.elements(dimension);
        let begun = Instant::now();
        let found = ioctl::search(&scratch.file, &query, K as u32)
            .map_err(|error| Error::ioctl("SEARCH", &scratch.path, error))?;
        times.push(begun.elapsed());
        recalled += recall(&found, &nearest(&rows, &query, K));
    }
    times.sort();
    Ok(Outcome {
        ingest_vectors_per_s: options.vectors as f64 / ingest,
        search_ms_p50: percentile_ms(&times, 50),
        search_ms_p95: percentile_ms(&times, 95),
        recall_at_10: recalled / options.queries as f64,
    })
}

fn render(options: &Options, outcome: &Outcome) -> String {
    let Options {
        vectors,
        dimension,
        queries,
        ..
    } = options;
    let Outcome {
        ingest_vectors_per_s,
        search_ms_p50,
        search_ms_p95,
        recall_at_10,
    } = outcome;
    if options.json {
        return format!(
            "{{\"vectors\": {vectors}, \"dimension\": {dimension}, \"queries\": {queries}, \
             \"ingest_vectors_per_s\": {ingest_vectors_per_s:.1}, \
             \"search_ms_p50\": {search_ms_p50:.3}, \"search_ms_p95\": {search_ms_p95:.3}, \
             \"recall_at_10\": {recall_at_10:.4}}}\n"
        );
    }
    format!(
        "{vectors} vectors of {dimension} dimensions, {queries} queries\n\
         added     {ingest_vectors_per_s:.0} vectors/s, with fsync\n\
         searched  {search_ms_p50:.2} ms (median), {search_ms_p95:.2} ms (95th percentile)\n\
         recall    {recall_at_10:.4} of the 10 nearest\n"
    )
}

pub fn run(options: &Options) -> Result<String, Error> {
    let outcome = measure(options)?;
    let text = render(options, &outcome);
    // The search compares all rows, so anything missing is a wrong result and not a trade-off.
    if outcome.recall_at_10 < 1.0 {
        return Err(Error::new(format!("the search missed rows: {text}")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hit(row: u64, distance: u64) -> Hit {
        Hit { row, distance }
    }

    #[test]
    fn percentiles_of_a_hundred() {
        let times: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile_ms(&times, 50), 51.0);
        assert_eq!(percentile_ms(&times, 95), 96.0);
        assert_eq!(percentile_ms(&times[..1], 95), 1.0);
    }

    #[test]
    fn recall_counts_right_rows_with_right_distances() {
        let right = [hit(1, 5), hit(2, 6)];
        assert_eq!(recall(&right, &right), 1.0);
        assert_eq!(recall(&[hit(2, 6), hit(3, 7)], &right), 0.5);
        assert_eq!(recall(&[hit(1, 4), hit(2, 9)], &right), 0.0);
        assert_eq!(recall(&[], &right), 0.0);
    }

    #[test]
    fn random_vectors_are_the_same_in_every_run_and_in_range() {
        let (first, second) = (Random(1).elements(1000), Random(1).elements(1000));
        assert_eq!(first, second);
        assert!(first.iter().all(|e| (-1024..1024).contains(e)));
        assert!(first.iter().any(|e| *e < 0) && first.iter().any(|e| *e > 0));
    }

    #[test]
    fn json_has_the_agreed_keys() {
        let outcome = Outcome {
            ingest_vectors_per_s: 1234.56,
            search_ms_p50: 1.5,
            search_ms_p95: 2.25,
            recall_at_10: 1.0,
        };
        let options = Options {
            json: true,
            ..Options::default()
        };
        assert_eq!(
            render(&options, &outcome),
            "{\"vectors\": 10000, \"dimension\": 64, \"queries\": 20, \
             \"ingest_vectors_per_s\": 1234.6, \"search_ms_p50\": 1.500, \
             \"search_ms_p95\": 2.250, \"recall_at_10\": 1.0000}\n"
        );
    }

    #[test]
    fn a_filesystem_without_vectors_is_an_error_and_leaves_no_file() {
        let mount = std::env::temp_dir();
        let options = Options {
            mount: mount.clone(),
            vectors: 4,
            ..Options::default()
        };
        assert!(run(&options).is_err());
        let left = mount.join(format!(".vexctl-bench-{}", std::process::id()));
        assert!(!left.exists());
    }
}
