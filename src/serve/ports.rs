//! `ports.json` in the data folder: where the doors really are, written whole once they are open, for scripts and for
//! everything that starts servers on ports of the system's choosing.

use std::fs;
use std::io;
use std::path::Path;

use protocols::DoorAddresses;
use serde_json::json;

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
