//! The JSON lines from a client's side, without I/O. The protocol answers in no promised order and a command's answer names its
//! series (and its device_seq, when it had one), so there is nothing to count here: lines out, messages in, within the cap.

use proto::frame::SetProgress;
use proto::line::{Auth, ClientLine, LINE_BYTES_MAX, LineError, ProgressUpdate, ServerLine, split_line};

/// Sent bytes are dropped from the buffer's front when they are this many.
const COMPACT_BYTES: usize = 64 * 1024;

/// One connection's state.
#[derive(Debug, Default)]
pub struct Connection {
    incoming: Vec<u8>,
    taken: usize,
    searched: usize,
    outgoing: Vec<u8>,
    sent: usize,
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
        line.write(&mut self.outgoing);
    }

    /// Bytes to send.
    pub fn outgoing(&self) -> &[u8] {
        &self.outgoing[self.sent..]
    }

    /// Says how many of them were sent.
    pub fn sent(&mut self, bytes: usize) {
        self.sent += bytes;
        // A socket that always leaves a rest must not make the buffer grow for ever.
        if self.sent >= self.outgoing.len() || self.sent >= COMPACT_BYTES {
            self.outgoing.drain(..self.sent.min(self.outgoing.len()));
            self.sent = 0;
        }
    }

    /// Takes in bytes that came.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.taken > 0 {
            self.incoming.drain(..self.taken);
            self.taken = 0;
        }
        self.incoming.extend_from_slice(bytes);
    }

    /// The next message, if a whole line is there. An error concerns one line, but for `TooLong`, after which nothing can follow.
    pub fn next_line(&mut self) -> Result<Option<ServerLine<'_>>, LineError> {
        let start = self.taken;
        let rest = &self.incoming[start..];
        let Some((line, consumed)) = split_line(rest, self.searched)? else {
            self.searched = rest.len().min(LINE_BYTES_MAX);
            return Ok(None);
        };
        self.searched = 0;
        self.taken += consumed;
        ServerLine::parse(line).map(Some)
    }
}
