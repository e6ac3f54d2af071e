//! `ports.json` in the data folder: where the doors really are, written whole once they are open, for scripts and for
//! everything that starts servers on ports of the system's choosing.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

use protocols::DoorAddresses;
use serde_json::{Value, json};

/// The file's name.
pub(crate) const NAME: &str = "ports.json";

/// Writes the file; a reader sees all of it or none.
pub(crate) fn write(data_dir: &Path, addresses: DoorAddresses) -> io::Result<()> {
    let content = json!({
        "pid": std::process::id(),
        "http": addresses.http,
        "tcp_sync": addresses.tcp_sync,
        "metrics": addresses.metrics,
    });
    let draft = data_dir.join("ports.json.new");
    fs::write(&draft, format!("{content}\n"))?;
    fs::rename(&draft, data_dir.join(NAME))
}

/// Reads where the doors are, by name.
pub(crate) fn read(data_dir: &Path) -> io::Result<Vec<(String, SocketAddr)>> {
    let content: Value = serde_json::from_slice(&fs::read(data_dir.join(NAME))?)?;
    let doors = content.as_object().into_iter().flatten();
    Ok(doors.filter_map(|(name, place)| Some((name.clone(), place.as_str()?.parse().ok()?))).collect())
}
