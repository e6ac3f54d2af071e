//! Load profiles: named runs with everything that decides their figures, so that a figure can be had again with one word. What a
//! profile raises above the server's defaults is part of it and printed in every report.

use std::collections::BTreeMap;
use std::io;

use serde::Deserialize;

use crate::workload::Distribution;

/// The profiles that come with the program: the files of `loadtest/profiles/`.
const BUILT_IN: &[(&str, &str)] = &[
    ("updates", include_str!("../profiles/updates.toml")),
    ("updates-thin", include_str!("../profiles/updates-thin.toml")),
    ("burst", include_str!("../profiles/burst.toml")),
    ("steady", include_str!("../profiles/steady.toml")),
    ("latency", include_str!("../profiles/latency.toml")),
    ("fanout", include_str!("../profiles/fanout.toml")),
    ("fanout-1", include_str!("../profiles/fanout-1.toml")),
    ("fanout-10", include_str!("../profiles/fanout-10.toml")),
    ("fanout-100", include_str!("../profiles/fanout-100.toml")),
];

/// One profile. What it leaves open is the command line's, or a default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What it is for.
    pub about: String,
    /// Users that write.
    pub users: Option<usize>,
    /// Connections per user.
    pub devices: Option<usize>,
    /// Of them, how many write.
    pub writers: Option<usize>,
    /// Series per user.
    pub series: Option<usize>,
    /// Connections open at once.
    pub connections_max: Option<usize>,
    /// Of 1,000 connected users, how many have one more device that watches.
    pub watched_per_mille: Option<usize>,
    /// Connections per second that give their place to another user.
    pub changes_per_s: Option<f64>,
    /// Updates in flight per connection.
    pub window: Option<usize>,
    /// Updates in flight over all connections.
    pub in_flight: Option<usize>,
    /// Of them, how many a connection gets at a time.
    pub burst: Option<usize>,
    /// Open loop: updates per second.
    pub rate: Option<f64>,
    /// Whether every device's part in the announcements is followed.
    pub deliveries: Option<bool>,
    /// How picks are spread.
    pub distribution: Option<Distribution>,
    /// Seconds of load that are not measured.
    pub warm_up: Option<f64>,
    /// Seconds that are.
    pub duration: Option<f64>,
    /// Seconds that the store may take to catch up afterwards; that time is measured.
    pub drain_s: Option<f64>,
    /// The server's configuration beyond its defaults.
    #[serde(default)]
    pub raise: BTreeMap<String, String>,
}

impl Profile {
    /// By its name, or from a file.
    pub fn load(name: &str) -> io::Result<Self> {
        let built_in = BUILT_IN.iter().find(|(known, _)| *known == name);
        let text = match built_in {
            Some((_, text)) => (*text).to_owned(),
            None => std::fs::read_to_string(name).map_err(|error| {
                let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
                io::Error::other(format!("{name}: {error}; profiles by name: {}", names.join(", ")))
            })?,
        };
        toml::from_str(&text).map_err(|error| io::Error::other(format!("profile {name}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_profile_that_comes_along_can_be_read() {
        for (name, _) in BUILT_IN {
            let profile = Profile::load(name).unwrap();
            assert!(!profile.about.is_empty() && profile.users.is_some(), "{name}");
        }
        assert!(Profile::load("no such profile").is_err());
    }
}
