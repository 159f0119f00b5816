// SPDX-License-Identifier: GPL-2.0
//! vexctl: make, ask, fill and measure a vexfs-ref filesystem.
//!
//! Exit status: 0 done, 1 it failed, 2 the command line was wrong.

mod args;
mod bench;
mod disk;
mod error;
mod ioctl;
mod mkfs;
mod vectors;

use args::Command;
use error::Error;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let command = match args::parse(&words) {
        Ok(command) => command,
        Err(message) => {
            eprintln!("vexctl: {message}\n\n{}", args::USAGE);
            return ExitCode::from(2);
        }
    };
    match run(&command) {
        Ok(text) => match std::io::stdout().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("vexctl: cannot write to stdout: {error}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("vexctl: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What the command prints.
fn run(command: &Command) -> Result<String, Error> {
    match command {
        Command::Help => Ok(format!("{}\n", args::USAGE)),
        Command::Status { mount } => status(mount),
        Command::Mkfs(options) => mkfs::run(options),
        Command::Add { file } => vectors::add(file),
        Command::Search { file, k, query } => vectors::search(file, *k, query),
        Command::Bench(options) => bench::run(options),
    }
}

fn status(mount: &Path) -> Result<String, Error> {
    let directory = File::open(mount).map_err(|error| Error::io("open", mount, error))?;
    let status = ioctl::status(&directory).map_err(|error| Error::ioctl("STATUS", mount, error))?;
    Ok(format!(
        "vexfs-ref version {}\n\
         block size   {}\n\
         blocks       {} free of {}\n\
         inodes       {} free of {}\n\
         vectors      {}\n",
        status.version,
        status.block_size,
        status.free_blocks,
        status.blocks,
        status.free_inodes,
        status.inodes,
        if status.flags & ioctl::HAS_VECTORS == 0 {
            "not in this build of the module".to_string()
        } else {
            format!("up to {} dimensions", status.max_dimension)
        },
    ))
}
