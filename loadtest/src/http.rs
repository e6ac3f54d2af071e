//! The little HTTP that the harness needs: one GET on a connection of its own, for the metrics and health doors.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use tokio::io::AsyncReadExt;

/// The body of a 2xx answer; anything else is an error that quotes the status line. Bounded to 4 MiB and 5 s.
pub fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    let patience = Duration::from_secs(5);
    let mut stream = TcpStream::connect_timeout(&address, patience)?;
    stream.set_read_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(4 << 20).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| io::Error::other("an answer without headers"))?;
    let status = head.lines().next().unwrap_or_default();
    if !status.contains(" 2") {
        return Err(io::Error::other(format!("GET {path} answered {status}")));
    }
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return dechunk(body).ok_or_else(|| io::Error::other("a broken chunked body"));
    }
    Ok(body.to_owned())
}

fn dechunk(mut body: &str) -> Option<String> {
    let mut whole = String::new();
    loop {
        let (size, rest) = body.split_once("\r\n")?;
        let size = usize::from_str_radix(size.split(';').next()?.trim(), 16).ok()?;
        if size == 0 {
            return Some(whole);
        }
        whole.push_str(rest.get(..size)?);
        body = rest.get(size + 2..)?;
    }
}

/// Reads one answer on a connection that stays open: its status and its body, whose length it must say.
pub async fn answer(stream: &mut tokio::net::TcpStream) -> io::Result<(String, String)> {
    let mut read = Vec::with_capacity(2_048);
    loop {
        if stream.read_buf(&mut read).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&read);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse::<usize>().ok());
        if body.len() >= length.unwrap_or(0) {
            return Ok((head.split(' ').nth(1).unwrap_or("none").to_owned(), body.to_owned()));
        }
    }
}

/// The values of a metric, with the labels of each as the server writes them.
pub fn labelled<'t>(exposition: &'t str, name: &str) -> Vec<(&'t str, f64)> {
    let values = exposition.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.strip_prefix('{')?.rsplit_once("} ")?;
        Some((labels, value.parse().ok()?))
    });
    values.collect()
}

/// The value of a metric without labels (or the sum over its labels), if the server shows it.
pub fn metric(exposition: &str, name: &str) -> Option<f64> {
    let values = exposition.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        (rest.starts_with(' ') || rest.starts_with('{')).then_some(())?;
        rest.rsplit(' ').next()?.parse::<f64>().ok()
    });
    values.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_found_by_their_whole_name() {
        let text = "# TYPE a counter\na 3\na_b 4\na{x=\"1\"} 5\n";
        assert_eq!(metric(text, "a"), Some(8.0));
        assert_eq!(metric(text, "a_b"), Some(4.0));
        assert_eq!(metric(text, "b"), None);
        assert_eq!(labelled(text, "a"), [("x=\"1\"", 5.0)]);
    }

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(dechunk("3\r\nabc\r\n2;x\r\nde\r\n0\r\n\r\n").as_deref(), Some("abcde"));
        assert_eq!(dechunk("9\r\nabc"), None);
    }
}
