//! One server's life, from the first start on an empty folder to a polite end: what it prints and leaves, what it refuses,
//! and what the command line does to it while it runs and when it does not.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Finished, Launch, PASSWORD, Reader, Request, Server, mangahub};

const UUID: &str = "1044287a-73df-48d0-b0b2-5327f32dd651";

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn a_first_start_makes_everything_and_says_where() {
    let server = Server::start();
    let data = server.launch().data_dir();
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("secret")), 0o600);
    assert_eq!(mode(&data.join("admin.sock")), 0o600);

    let banner = server.banner();
    for said in [
        format!("http://{}", server.ports.http),
        server.ports.tcp_sync.to_string(),
        format!("http://{}/metrics", server.ports.metrics),
        data.display().to_string(),
        "sqlite".to_owned(),
        "curl -s".to_owned(),
    ] {
        assert!(banner.contains(&said), "the banner does not say {said}:\n{banner}");
    }
    assert!(banner.contains("io_uring") || banner.contains("epoll"), "{banner}");

    server.request("GET", "/health/live").send().expect(200);
    server.request("GET", "/health/ready").send().expect(200);
    Request::new(server.ports.metrics, "GET", "/metrics").send().expect(200);
    let manga = server.request("GET", "/api/manga?page_size=100").send().expect(200).json();
    assert!(manga["pagination"]["total"].as_u64().unwrap() >= 150, "{manga}");
}

#[test]
fn the_banner_can_be_json() {
    let server = Launch::new().argument("--output=json").start();
    let banner: Value = serde_json::from_str(server.banner().trim()).unwrap();
    assert_eq!(banner["http"], json!(server.ports.http.to_string()));
    assert!(banner["shards"].as_u64().unwrap() >= 1);
    assert!(banner["open_files"].as_u64().unwrap() >= banner["connections_max"].as_u64().unwrap());
}

#[test]
fn sigterm_ends_it_politely_and_leaves_no_sign_of_a_server() {
    let server = Server::start();
    let reader = Reader::register(&server, "polite");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 12})).expect(200);

    let asked = Instant::now();
    let (status, launch) = server.stop();
    assert!(status.success(), "{status}: {}", launch.stderr());
    assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    assert!(!launch.stderr().contains("WARN"), "nothing leaks and nothing is left behind: {}", launch.stderr());
    assert!(!launch.data_dir().join("ports.json").exists());
    assert!(!launch.data_dir().join("admin.sock").exists());

    let server = launch.start();
    assert_eq!(reader.progress(&server, manga)["chapter"], json!(12));
}

#[test]
fn a_second_server_on_the_same_folder_is_refused() {
    let server = Server::start();
    let second = server.cli(&["serve", "--port-base", "0"]);
    assert_eq!(second.code(), 5, "{second:#?}");
    assert!(second.stderr.contains("another server uses the data folder"), "{}", second.stderr);
    server.request("GET", "/health/live").send().expect(200);
}

#[test]
fn a_port_in_use_is_named_with_its_door() {
    let server = Server::start();
    let port = server.ports.http.port();
    let second = Launch::new().set("ports.http", &port.to_string()).refused();
    assert_eq!(second.code(), 5, "{second:#?}");
    assert!(second.stderr.contains(&port.to_string()) && second.stderr.contains("http"), "{}", second.stderr);
}

#[test]
fn a_public_bind_without_tls_is_refused() {
    let refused = Launch::new().argument("--listen=0.0.0.0").refused();
    assert_eq!(refused.code(), 3, "{refused:#?}");
    assert!(refused.stderr.contains("--insecure"), "{}", refused.stderr);

    let server = Launch::new().argument("--listen=0.0.0.0").argument("--insecure").start();
    let body = json!({"username": "stranger", "password": PASSWORD, "email": "s@example.com"});
    let port = server.ports.http.port();
    let answer = Request::new(([127, 0, 0, 1], port).into(), "POST", "/auth/register").json(&body).send();
    assert_eq!(answer.status, 403, "registration is closed on a public bind: {answer:#?}");
}

#[test]
fn a_configuration_that_is_wrong_is_refused_with_its_place() {
    let refused = Launch::new().set("limits.window_updates", "0").refused();
    assert_eq!(refused.code(), 3);
    assert!(refused.stderr.contains("limits.window_updates is 0; it must be from 1"), "{}", refused.stderr);
    let refused = Launch::new().set("journal.bytes_max", "4MiB").refused();
    assert!(refused.stderr.contains("4 times journal.segment_bytes"), "{}", refused.stderr);
    // Nobody listens on port 1: the database is named, its password is not.
    let refused = Launch::new().variable("DATABASE_URL", "postgres://user:hunter2@127.0.0.1:1/db").refused();
    assert_eq!(refused.code(), 5, "{refused:#?}");
    assert!(refused.stderr.contains("127.0.0.1:1/db") && !refused.stderr.contains("hunter2"), "{}", refused.stderr);
    let refused = Launch::new().variable("REDIS_URL", "redis+tls://:hunter2@127.0.0.1").refused();
    assert_eq!(refused.code(), 3, "{refused:#?}");
    assert!(refused.stderr.contains("redis, rediss") && !refused.stderr.contains("hunter2"), "{}", refused.stderr);
    let refused = Launch::new().variable("JWT_SECRET", "short").refused();
    assert!(refused.stderr.contains("at least 32 bytes"), "{}", refused.stderr);
}

#[test]
fn config_show_says_where_a_value_came_from_and_hides_secrets() {
    let secret = "a secret that is long enough to be one";
    let shown = Finished::run(mangahub().env("JWT_SECRET", secret).env("MANGAHUB_SHARDS", "2").args([
        "config",
        "show",
        "--output=json",
    ]))
    .done();
    assert!(!shown.stdout.contains(secret));
    let shown = shown.json();
    assert_eq!(shown["auth.jwt_secret"]["source"], "environment JWT_SECRET");
    assert_eq!(shown["shards"], json!({"value": 2, "source": "environment MANGAHUB_SHARDS"}));
    assert_eq!(shown["ports.http"]["source"], "default");
    let shown = Finished::run(mangahub().env("MANGAHUB_PORTS_HTPP", "1").args(["config", "show"])).done();
    assert!(shown.stderr.contains("MANGAHUB_PORTS_HTPP names no configuration key"), "{}", shown.stderr);
}

#[test]
fn a_written_configuration_is_found_and_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| Finished::run(mangahub().current_dir(folder.path()).args(arguments));
    run(&["init"]).done();
    assert_eq!(run(&["init"]).code(), 6, "never over a file that is there");
    assert!(run(&["config", "path"]).done().stdout.contains("mangahub.toml"));
    let sources = run(&["config", "show", "--output=json"]).done().json();
    assert!(sources.as_object().unwrap().values().all(|key| key["source"] == "default"), "{sources}");
}

/// Two new series, one that repeats an upstream id, one without a title, and one of the demo under its upstream id.
fn catalogue_file() -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    let rows = json!({"mangas": [
        {"id": UUID, "slug": "a-new-one", "title": "A New One", "status": "completed", "total_chapters": 12},
        {"id": UUID, "title": "The Same Again"},
        {"status": "ongoing"},
        {"id": "2f1b57ae-86ad-46be-8ea1-2bd5d3a6cfd0", "title": "Another", "slug": "a-new-one", "status": "ongoing"},
        {"id": "801513ba-a712-498c-8f57-cae55b38cc92", "title": "Berserk", "status": "ongoing", "author": "Miura Kentarou"},
    ], "genres": []});
    std::fs::write(file.path(), rows.to_string()).unwrap();
    file
}

#[track_caller]
fn check_import(first: &Finished, second: &Finished) {
    // Rows were left out, and a script must notice.
    assert_eq!((first.code(), second.code()), (6, 6), "{first:#?} {second:#?}");
    let (first, second) = (first.json(), second.json());
    assert_eq!((&first["rows"], &first["inserted"], &first["adopted"]), (&json!(5), &json!(2), &json!(1)), "{first}");
    let rejected: Vec<_> = first["rejected"].as_array().unwrap().iter().map(|bad| bad["row"].clone()).collect();
    assert_eq!(rejected, [2, 3], "{first}");
    assert_eq!(first["renamed"][0]["row"], 4, "{first}");
    assert_eq!((&second["inserted"], &second["updated"], &second["unchanged"]), (&json!(0), &json!(0), &json!(3)));
}

#[test]
fn an_import_through_a_running_server_is_seen_at_once_and_twice_is_nothing() {
    let server = Server::start();
    let file = catalogue_file();
    let path = file.path().to_str().unwrap();
    let import = || server.cli(&["import", "--format", "catalogue", path, "--output=json"]);
    let first = import();
    let manga = server.request("GET", "/api/manga/a-new-one").send().expect(200).json();
    assert_eq!((&manga["title"], &manga["total_chapters"]), (&json!("A New One"), &json!(12)));
    check_import(&first, &import());
}

#[test]
fn an_import_without_a_server_takes_the_folder_itself() {
    let (_, launch) = Server::start().stop();
    let file = catalogue_file();
    let data = launch.data_dir();
    let import = || {
        let mut command = mangahub();
        command.arg("--data-dir").arg(&data).args(["import", "--format", "catalogue", "--output=json"]);
        Finished::run(command.arg(file.path()))
    };
    let (first, second) = (import(), import());
    check_import(&first, &second);
    let server = launch.start();
    server.request("GET", "/api/manga/a-new-one").send().expect(200);
}

#[test]
fn a_file_that_is_no_catalogue_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("not.json");
    std::fs::write(&file, "{").unwrap();
    let refused =
        Finished::run(mangahub().current_dir(folder.path()).args(["import", "--format", "catalogue"]).arg(&file));
    assert_eq!(refused.code(), 6);
    assert!(refused.stderr.contains("not a catalogue"), "{}", refused.stderr);
}

#[test]
fn an_administrator_is_made_and_promoted_through_the_socket() {
    let server = Server::start();
    let password = server.launch().data_dir().with_extension("password");
    std::fs::write(&password, format!("{PASSWORD}\n")).unwrap();
    let password = password.to_str().unwrap();
    let create = ["admin", "create", "--username=root", "--email=root@example.com", "--password-file", password];
    server.cli(&create).done();
    let again = server.cli(&create);
    assert_eq!(again.code(), 6, "{again:#?}");
    Reader::sign_in(&server, "root");

    let reader = Reader::register(&server, "helper");
    server.cli(&["admin", "promote", "helper"]).done();
    let old = server.request("GET", "/api/progress").bearer(&reader.token).send();
    assert_eq!(old.status, 401, "a token that says less than the account may is revoked: {old:#?}");
    let unknown = server.cli(&["admin", "promote", "nobody"]);
    assert_eq!(unknown.code(), 6, "{unknown:#?}");
}

#[test]
fn seeded_users_can_be_used_at_once() {
    let server = Server::start();
    let file = server.launch().data_dir().with_extension("tokens");
    server.cli(&["admin", "seed", "--users=3", "--series=5", "--tokens", file.to_str().unwrap()]).done();
    assert_eq!(mode(&file), 0o600);
    let tokens: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(tokens["users"].as_array().unwrap().len(), 3);
    assert_eq!(tokens["series"].as_array().unwrap().len(), 5);
    let (token, manga) = (tokens["users"][0]["token"].as_str().unwrap(), &tokens["series"][0]);
    let put = server.request("PUT", &format!("/api/progress/{manga}")).bearer(token).json(&json!({"chapter": 1}));
    put.send().expect(200);
}

#[test]
fn the_store_is_looked_after_with_and_without_a_server() {
    let server = Server::start();
    let reader = Reader::register(&server, "keeper");
    let manga = reader.series(&server, "berserk");
    reader.put_progress(&server, manga, &json!({"chapter": 3})).expect(200);
    server.cli(&["db", "drain"]).done();
    let check = server.cli(&["db", "check", "--output=json"]).done().json();
    assert_eq!(check["problems"], json!([]));
    server.cli(&["db", "migrate"]).done();
    server.cli(&["db", "retry"]).done();
    server.cli(&["admin", "stats"]).done();
    assert_eq!(server.cli(&["db", "adopt"]).code(), 2);

    let (_, launch) = server.stop();
    let data = launch.data_dir();
    for arguments in [["db", "check"], ["db", "drain"], ["db", "migrate"], ["db", "retry"]] {
        Finished::run(mangahub().arg("--data-dir").arg(&data).args(arguments)).done();
    }
}

#[test]
fn a_folder_that_no_server_has_been_in_is_neither_looked_after_nor_made() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("mistyped");
    let file = folder.path().join("backup").display().to_string();
    for arguments in [
        &["db", "check"][..],
        &["db", "drain"],
        &["db", "retry"],
        &["admin", "stats"],
        &["admin", "promote", "somebody"],
        &["backup", "create", &file],
    ] {
        let refused = Finished::run(mangahub().arg("--data-dir").arg(&data).args(arguments));
        assert_eq!(refused.code(), 5, "{refused:#?}");
        assert!(refused.stderr.contains("is it the right data folder?"), "{}", refused.stderr);
    }
    assert!(!data.exists());
    // Who begins may begin with a command.
    let password = folder.path().join("password");
    std::fs::write(&password, PASSWORD).unwrap();
    let create = ["admin", "create", "--username", "boss", "--email", "boss@example.org", "--password-file"];
    Finished::run(mangahub().arg("--data-dir").arg(&data).args(create).arg(&password)).done();
    Finished::run(mangahub().arg("--data-dir").arg(&data).args(["db", "check"])).done();
}

#[test]
fn a_store_that_went_missing_is_explained_and_can_be_given_up() {
    let server = Server::start();
    Reader::register(&server, "lost");
    let (_, launch) = server.stop();
    let data = launch.data_dir();
    for name in ["mangahub.db", "mangahub.db-wal", "mangahub.db-shm"] {
        let _ = std::fs::remove_file(data.join(name));
    }
    let refused = launch.refused();
    assert_eq!(refused.code(), 7, "{refused:#?}");
    assert!(refused.stderr.contains("db adopt"), "{}", refused.stderr);
    Finished::run(mangahub().arg("--data-dir").arg(&data).args(["db", "adopt", "--yes"])).done();
    launch.start().request("GET", "/health/ready").send().expect(200);
}

#[test]
fn the_admin_socket_answers_nonsense_with_a_reason() {
    use std::io::{BufRead, BufReader, Write};
    let server = Server::start();
    let stream = std::os::unix::net::UnixStream::connect(server.launch().data_dir().join("admin.sock")).unwrap();
    let mut reader = BufReader::new(&stream);
    for line in ["nonsense", r#"{"do":"fly"}"#, r#"{"do":"seed","users":0,"series":1,"token_ttl_s":1}"#] {
        (&stream).write_all(format!("{line}\n").as_bytes()).unwrap();
        let mut answer = String::new();
        reader.read_line(&mut answer).unwrap();
        assert!(answer.contains("invalid_input"), "{line}: {answer}");
    }
}

#[test]
fn commands_of_later_versions_say_so() {
    let later = Finished::run(mangahub().args(["chat", "join"]));
    assert_eq!((later.code(), later.stderr.contains("not available in this version")), (4, true));
    let wrong = Finished::run(mangahub().args(["chaat"]));
    assert_eq!(wrong.code(), 2);
    let version = Finished::run(mangahub().args(["version"])).done();
    assert_eq!(version.stdout, format!("mangahub {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn a_start_takes_less_than_a_second() {
    // The first start makes the folder; what a person waits for again and again is the second.
    let (_, launch) = Server::start().stop();
    let fastest = (0..3).fold((Duration::MAX, launch), |(fastest, launch), _| {
        let begun = Instant::now();
        let server = launch.start();
        let took = begun.elapsed();
        (fastest.min(took), server.kill())
    });
    assert!(fastest.0 < Duration::from_secs(1), "{:?}", fastest.0);
}
