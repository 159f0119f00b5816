// SPDX-License-Identifier: GPL-2.0
//! What went wrong, as a sentence for a person.

use std::fmt;
use std::io;
use std::path::Path;

#[derive(Debug)]
pub struct Error(String);

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        Error(message.into())
    }

    pub fn io(action: &str, path: &Path, error: io::Error) -> Self {
        Error(format!("cannot {action} '{}': {error}", path.display()))
    }

    pub fn ioctl(request: &str, path: &Path, error: io::Error) -> Self {
        const ENOTTY: i32 = 25;
        if error.raw_os_error() == Some(ENOTTY) {
            return Error(format!(
                "'{}' does not answer {request}: it is not on a vexfs-ref filesystem, is not a \
                 regular file, or the module was built without the vector ioctls",
                path.display()
            ));
        }
        Error(format!("{request} on '{}' failed: {error}", path.display()))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_request_says_what_it_may_be() {
        let error = Error::ioctl(
            "STATUS",
            Path::new("/mnt"),
            io::Error::from_raw_os_error(25),
        );
        assert!(error.to_string().contains("not on a vexfs-ref filesystem"));
    }

    #[test]
    fn another_error_is_passed_on() {
        let error = Error::ioctl("STATUS", Path::new("/mnt"), io::Error::from_raw_os_error(5));
        assert!(error.to_string().contains("STATUS on '/mnt' failed"));
    }
}
