//! The process's limit on open files: raised to what the system allows, once, at start. Every connection is one file, so
//! this is what bounds connections; it must be shown rather than met by surprise.

use std::io;

/// The limit after raising it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenFiles {
    /// What the process may open now.
    pub limit: u64,
    /// What it could open when it started.
    pub was: u64,
}

/// Raises the soft limit on open files to the hard limit.
#[allow(unsafe_code)] // getrlimit and setrlimit have no safe wrapper in std
pub fn raise_open_files() -> io::Result<OpenFiles> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call writes one rlimit struct, which lives until it returns.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let was = limit.rlim_cur;
    if limit.rlim_cur < limit.rlim_max {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: the call reads one rlimit struct, which lives until it returns.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(OpenFiles { limit: limit.rlim_cur, was })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_never_lowered() {
        let first = raise_open_files().unwrap();
        assert!(first.limit >= first.was);
        assert_eq!(raise_open_files().unwrap().was, first.limit);
    }
}
