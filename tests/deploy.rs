//! What lies in deploy/, held against the server that it deploys: files parse, and every fact in them that the server decides
//! (paths, ports, commands, metrics, system calls) is as the server has it. What can be run here is run: the unit's command,
//! the health check, the whole server under the seccomp profile.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};
use yaml_rust2::{Yaml, YamlLoader};

use crate::support::{Finished, Launch, Reader, eventually, on_disk};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Yaml {
    let mut documents = YamlLoader::load_from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    assert_eq!(documents.len(), 1, "{path}");
    documents.remove(0)
}

fn texts(list: &Yaml) -> Vec<&str> {
    list.as_vec().unwrap_or_else(|| panic!("not a list: {list:?}")).iter().map(|text| text.as_str().unwrap()).collect()
}

/// The words of a Dockerfile's instructions, with lines that go on joined.
fn instructions() -> Vec<(String, String)> {
    let joined = read("deploy/Dockerfile").replace("\\\n", " ");
    let lines = joined.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    lines.map(|line| line.split_once(' ').unwrap()).map(|(word, rest)| (word.to_owned(), rest.to_owned())).collect()
}

/// A child that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_image_runs_what_it_builds_as_nobody_in_particular() {
    let all = instructions();
    let of = |word: &'static str| all.iter().filter(move |(found, _)| found == word).map(|(_, rest)| rest.as_str());
    let build = of("RUN").next().unwrap();
    // A base without a C library runs only what brings its own.
    let built =
        r#"RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --bin mangahub --target "$target""#;
    assert!(build.contains(built), "{build}");
    let wanted: toml::Table = read("Cargo.toml").parse().unwrap();
    let toolchain = wanted["workspace"]["package"]["rust-version"].as_str().unwrap();
    let bases: Vec<&str> = of("FROM").collect();
    assert!(bases.len() == 2 && bases[0].starts_with(&format!("rust:{toolchain}-")), "{bases:?}");
    assert!(bases[1].contains("/static-") && bases[1].ends_with(":nonroot"), "{bases:?}");
    assert_eq!(of("USER").collect::<Vec<_>>(), ["nonroot"]);
    let place = "/usr/local/bin/mangahub";
    assert!(of("COPY").any(|copy| copy == format!("--from=build /out/mangahub {place}")));
    assert_eq!(of("ENTRYPOINT").collect::<Vec<_>>(), [format!("[\"{place}\"]")]);
    let data = of("VOLUME").next().unwrap();
    assert!(of("COPY").any(|copy| copy == format!("--from=build --chown=nonroot:nonroot /out/data {data}")));
    assert_eq!(of("ENV").collect::<Vec<_>>(), [format!("MANGAHUB_DATA_DIR={data}")]);
    // The defaults of the server.
    assert_eq!(of("EXPOSE").collect::<Vec<_>>(), ["8084 8081"]);
    assert!(read("mangahub.toml").contains("#http = 8084") && read("mangahub.toml").contains("#tcp_sync = 8081"));

    // Its commands are commands.
    let check = of("HEALTHCHECK").next().unwrap().split_once("CMD ").unwrap().1;
    let check: Vec<String> = serde_json::from_str(check).unwrap();
    let serve: Vec<String> = serde_json::from_str(of("CMD").next().unwrap()).unwrap();
    assert_eq!((&*check[0], &*serve), (place, &["serve".to_owned()][..]));
    let folder = on_disk();
    let ping = |words: &[String]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mangahub"));
        Finished::run(command.args(words).env_clear().env("MANGAHUB_DATA_DIR", folder.path().join("data")))
    };
    assert_eq!(ping(&check[1..]).code(), 5, "nobody is there yet");
    let mut command = Command::new(env!("CARGO_BIN_EXE_mangahub"));
    command.args(&serve).env_clear().env("MANGAHUB_DATA_DIR", folder.path().join("data"));
    for port in ["HTTP", "TCP_SYNC", "METRICS"] {
        command.env(format!("MANGAHUB_PORTS_{port}"), "0");
    }
    let _server = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    eventually("the container's health check passes", || (ping(&check[1..]).code() == 0).then_some(()));
}

#[test]
fn a_ping_tells_of_every_door_and_dependency() {
    let server = Launch::new().start();
    let told = server.cli(&["--output", "json", "server", "ping"]).done().json();
    assert_eq!(told["health"]["status"], "ready", "{told}");
    assert_eq!(told["health"]["dependencies"], json!({"journal": "healthy", "store": "healthy"}));
    for (name, address) in
        [("http", server.ports.http), ("tcp_sync", server.ports.tcp_sync), ("metrics", server.ports.metrics)]
    {
        assert_eq!(told["doors"][name]["address"], json!(address), "{told}");
    }
    let (_, launch) = server.stop();
    let mut command = crate::support::mangahub();
    let gone = Finished::run(command.arg("--data-dir").arg(launch.data_dir()).args(["server", "ping"]));
    assert!(gone.code() == 5 && gone.stderr.contains("no server answers"), "{gone:#?}");
}

#[test]
fn the_compose_file_starts_this_server_with_its_stores() {
    let compose = yaml("deploy/compose.yml");
    let services = &compose["services"];
    let server = &services["mangahub"];
    assert_eq!(server["build"]["dockerfile"].as_str(), Some("deploy/Dockerfile"));
    assert_eq!(server["build"]["context"].as_str(), Some(".."));
    for (name, service) in services.as_hash().unwrap() {
        assert!(service["privileged"].is_badvalue() && service["cap_add"].is_badvalue(), "{name:?}");
        let needs_check = ["postgres", "redis"].contains(&name.as_str().unwrap());
        assert_eq!(!service["healthcheck"].is_badvalue(), needs_check, "{name:?}: the server's own is in its image");
    }
    // Published on loopback only, because it is plain.
    for port in texts(&server["ports"]) {
        assert!(["127.0.0.1:8084:8084", "127.0.0.1:8081:8081"].contains(&port), "{port}");
    }
    let volumes = texts(&server["volumes"]);
    let data = instructions().into_iter().find(|(word, _)| word == "VOLUME").unwrap().1;
    assert_eq!(volumes, [format!("data:{data}")]);
    let security = texts(&server["security_opt"]);
    assert!(security.contains(&"no-new-privileges:true"), "{security:?}");
    let profile = security.iter().find_map(|option| option.strip_prefix("seccomp=")).unwrap();
    assert!(root().join("deploy").join(profile).exists());

    // Its settings are settings, and such that a server starts with them.
    let environment = server["environment"].as_hash().unwrap();
    let mut launch = Launch::new();
    for (name, value) in environment {
        let (name, value) = (name.as_str().unwrap(), value.as_str().unwrap());
        match name {
            "DATABASE_URL" => assert!(
                value.starts_with("postgres://mangahub:${POSTGRES_PASSWORD") && value.ends_with("@postgres/mangahub")
            ),
            "REDIS_URL" => assert_eq!(value, "redis://redis"),
            _ => launch = launch.variable(name, value),
        }
    }
    let server = launch.start();
    assert!(server.ports.http.ip().is_unspecified());
    let secret = &compose["secrets"]["postgres_password"];
    assert_eq!(secret["environment"].as_str(), Some("POSTGRES_PASSWORD"));

    let scrape = yaml("deploy/prometheus.yml");
    assert_eq!(texts(&scrape["scrape_configs"][0]["static_configs"][0]["targets"]), ["127.0.0.1:9100"]);
    assert!(read("mangahub.toml").contains("#metrics = 9100"));
}

/// The values of a unit's setting, in order.
fn settings<'a>(unit: &'a str, name: &str) -> Vec<&'a str> {
    unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('=')).collect()
}

#[test]
fn the_units_command_runs_with_the_units_environment() {
    let unit = read("deploy/mangahub.service");
    let [start] = settings(&unit, "ExecStart")[..] else { panic!("one command") };
    let mut words = start.split(' ');
    let installed = words.next().unwrap();
    assert_eq!(installed, "/usr/local/bin/mangahub");
    let data = format!("/var/lib/{}", settings(&unit, "StateDirectory")[0]);
    let folder = on_disk();
    let mut command = Command::new(env!("CARGO_BIN_EXE_mangahub"));
    command.args(words).args(["--port-base", "0"]).env_clear().current_dir(folder.path());
    for setting in settings(&unit, "Environment") {
        let (name, value) = setting.split_once('=').unwrap();
        let value = if value == data { folder.path().join("data").into_os_string() } else { value.into() };
        command.env(name, value);
    }
    let log = fs::File::create(folder.path().join("log")).unwrap();
    let _server = Running(command.stdout(Stdio::null()).stderr(log).spawn().unwrap());
    eventually("the unit's server", || folder.path().join("data/ports.json").exists().then_some(()));
    // A log line is JSON, as the unit asks.
    let line = eventually("a line in the log", || {
        let log = fs::read_to_string(folder.path().join("log")).unwrap();
        log.lines().next().filter(|_| log.contains('\n')).map(str::to_owned)
    });
    serde_json::from_str::<Value>(&line).unwrap();
    // It is killed later than it ends by itself: ten seconds of draining, five of grace.
    let patience: u32 = settings(&unit, "TimeoutStopSec")[0].parse().unwrap();
    assert!(patience > 15);
    for hardened in ["NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "PrivateDevices=yes"] {
        assert!(unit.lines().any(|line| line == hardened), "{hardened}");
    }
}

#[test]
fn systemd_understands_the_unit() {
    let folder = on_disk();
    // What is verified must exist, under any name.
    let unit = read("deploy/mangahub.service").replace("/usr/local/bin/mangahub", env!("CARGO_BIN_EXE_mangahub"));
    let unit = unit.replace("User=mangahub", "User=daemon");
    let path = folder.path().join("mangahub.service");
    fs::write(&path, unit).unwrap();
    let Ok(verified) = Command::new("systemd-analyze").arg("verify").arg(&path).output() else {
        eprintln!("skipped: there is no systemd-analyze here");
        return;
    };
    let said = String::from_utf8_lossy(&verified.stderr).into_owned();
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("mangahub.service")).collect();
    assert!(ours.is_empty(), "{said}");
}

#[test]
fn the_server_works_under_the_seccomp_profile_and_with_io_uring() {
    let profile: Value = serde_json::from_str(&read("deploy/seccomp.json")).unwrap();
    assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
    let rules = profile["syscalls"].as_array().unwrap();
    let allows = |call: &str| {
        rules.iter().any(|rule| {
            let names = rule["names"].as_array().unwrap();
            rule["action"] == "SCMP_ACT_ALLOW" && rule.get("args").is_none() && names.contains(&json!(call))
        })
    };
    for call in ["io_uring_setup", "io_uring_enter", "io_uring_register"] {
        assert!(allows(call), "{call}");
    }
    for call in ["mount", "ptrace", "bpf", "unshare", "setns", "init_module", "keyctl", "kexec_load"] {
        assert!(!allows(call), "{call}");
    }

    let script = root().join("tests/support/under_seccomp.py");
    let (script, path) = (script.display().to_string(), root().join("deploy/seccomp.json").display().to_string());
    let tried = Command::new("python3").args([&script, &path, "true"]).stderr(Stdio::null()).status();
    if tried.as_ref().map_or(true, |status| status.code() == Some(77)) {
        eprintln!("skipped: the profile cannot be put in force here ({tried:?})");
        return;
    }
    assert!(tried.unwrap().success());
    let refused = Command::new("python3").args([&script, &path, "unshare", "--user", "true"]).output().unwrap();
    assert!(!refused.status.success(), "the profile refuses what it does not name");

    // With io_uring wherever the machine lets the server have it without the profile.
    let backend = |banner: &str| banner.contains("io_uring (");
    let plain = Launch::new().start();
    let without = backend(&plain.banner());
    drop(plain);
    let server = Launch::new().through(&["python3", &script, &path]).start();
    assert_eq!(backend(&server.banner()), without, "{}", server.banner());
    let reader = Reader::register(&server, "contained");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 3})).expect(200);
    let (status, launch) = server.stop();
    assert!(status.success(), "{status}: {}", launch.stderr());
    assert!(!launch.stderr().contains("ERROR"), "{}", launch.stderr());
}

#[test]
fn the_dashboard_asks_for_documented_metrics_only() {
    let dashboard: Value = serde_json::from_str(&read("deploy/grafana/mangahub.json")).unwrap();
    let documented = crate::metrics::documented();
    let panels = dashboard["panels"].as_array().unwrap();
    let mut queries = 0;
    for query in panels.iter().flat_map(|panel| panel["targets"].as_array().into_iter().flatten()) {
        let expression = query["expr"].as_str().unwrap();
        let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
        for name in words.filter(|word| word.starts_with("mangahub_") || word.starts_with("process_")) {
            let name = name.strip_suffix("_bucket").unwrap_or(name);
            assert!(documented.iter().any(|(known, ..)| known == name), "{expression}: {name}");
            queries += 1;
        }
    }
    assert!(queries > 30, "{queries}");
    assert!(Path::new(&root().join("deploy/grafana")).exists());
}
