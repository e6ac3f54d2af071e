//! The JSON lines from a client's side, without I/O. The protocol answers in no promised order and a command's answer names its
//! series (and its device_seq, when it had one), so there is nothing to count here: lines out, messages in, within the cap.

use proto::frame::SetProgress;
use proto::line::{Auth, ClientLine, LineError, ProgressUpdate, ServerLine, split_line};

/// One connection's state.
#[derive(Debug, Default)]
pub struct Connection {
    incoming: Vec<u8>,
    taken: usize,
    searched: usize,
    out: Vec<u8>,
}

impl Connection {
    /// Starts one: auth is the first line to send.
    pub fn open(auth: &Auth<'_>) -> Self {
        let mut connection = Self::default();
        connection.send(&ClientLine::Auth(auth.clone()));
        connection
    }

    /// Appends a command.
    pub fn set_progress(&mut self, command: &SetProgress) {
        self.send(&ClientLine::ProgressUpdate(ProgressUpdate { user: None, device: None, command: *command }));
    }

    /// Appends any message.
    pub fn send(&mut self, line: &ClientLine<'_>) {
        line.write(&mut self.out);
    }

    /// Bytes that wait to be sent.
    pub fn pending_out(&self) -> &[u8] {
        &self.out
    }

    /// Forgets the first `bytes` of [`Self::pending_out`]: they were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.out.drain(..bytes);
    }

    /// Takes in bytes that came.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.incoming.drain(..self.taken);
            self.taken = 0;
        }
        self.incoming.extend_from_slice(bytes);
    }

    /// Whether `next_line` would give a message (or a line's error) now.
    pub fn has_line(&mut self) -> Result<bool, LineError> {
        let rest = &self.incoming[self.taken..];
        let found = split_line(rest, self.searched)?.is_some();
        if !found {
            self.searched = rest.len();
        }
        Ok(found)
    }

    /// The next message, if a whole line is there. An error concerns one line, but for `TooLong`, after which nothing can follow.
    pub fn next_line(&mut self) -> Result<Option<ServerLine<'_>>, LineError> {
        if !self.has_line()? {
            return Ok(None);
        }
        let start = self.taken;
        let Some((line, consumed)) = split_line(&self.incoming[start..], self.searched)? else { return Ok(None) };
        self.searched = 0;
        self.taken += consumed;
        ServerLine::parse(line).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::line::LINE_BYTES_MAX;

    #[test]
    fn messages_come_out_whatever_the_pieces_the_bytes_come_in() {
        let auth = Auth { token: "t".into(), username: None, device: None };
        let mut connection = Connection::open(&auth);
        assert!(connection.pending_out().ends_with(b"\n"));
        let mut bytes = Vec::new();
        ServerLine::Pong.write(None, &mut bytes);
        ServerLine::System { message: "two\nlines".into() }.write(Some(1_700_000_000_000), &mut bytes);
        let mut seen = Vec::new();
        for byte in &bytes {
            connection.feed(&[*byte]);
            while let Some(line) = connection.next_line().unwrap() {
                seen.push(format!("{line:?}"));
            }
        }
        assert_eq!(seen, ["Pong", "System { message: \"two\\nlines\" }"]);
    }

    #[test]
    fn a_line_without_an_end_is_refused_at_the_cap() {
        let mut connection = Connection::default();
        let mut fed = 0;
        let error = loop {
            connection.feed(&[b' '; 1024]);
            fed += 1024;
            match connection.next_line() {
                Ok(None) => {}
                Ok(Some(line)) => panic!("{line:?}"),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, LineError::TooLong) && fed <= LINE_BYTES_MAX + 2048, "{error} after {fed} bytes");
    }
}
