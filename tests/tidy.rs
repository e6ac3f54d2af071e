//! The layout's rules, enforced: which way dependencies point, where the runtime crate and `unsafe` may be named, how
//! long files and functions may be, and that every room says what it is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const LINES_PER_FILE_MAX: usize = 500;
const LINES_PER_FUNCTION_MAX: usize = 70;

/// Endings of files that people write.
const TEXTS: [&str; 7] = [".rs", ".md", ".toml", ".sql", ".py", ".sh", ".yml"];

/// Every room, and the rooms that it may depend on.
const ROOMS: &[(&str, &[&str])] = &[
    ("proto", &[]),
    ("runtime", &[]),
    ("hub", &["proto"]),
    ("storage", &["hub", "runtime", "proto"]),
    ("engine", &["hub", "storage", "runtime", "proto"]),
    ("ingest", &["engine"]),
    ("protocols", &["engine", "runtime", "proto"]),
    ("client", &["proto"]),
    ("loadtest", &["client", "proto"]),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file under a folder.
fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Every Rust file of the product: the rooms' and the server's own.
fn product_files() -> Vec<PathBuf> {
    let rooms = ROOMS.iter().map(|(room, _)| root().join(room).join("src"));
    rooms.chain([root().join("src")]).flat_map(|folder| rust_files(&folder)).collect()
}

/// Every Rust file there is: the product's, its tests, benches and examples. Not this one, which names what it forbids.
fn all_files() -> Vec<PathBuf> {
    let places = ["tests", "benches", "examples"];
    let rooms = ROOMS.iter().flat_map(|(room, _)| places.map(|place| root().join(room).join(place)));
    let own = places.map(|place| root().join(place));
    let files = product_files().into_iter().chain(rooms.chain(own).flat_map(|folder| rust_files(&folder)));
    files.filter(|path| !path.ends_with("tests/tidy.rs")).collect()
}

/// Every text file under a folder that the repository keeps: what builds write is passed over.
fn texts(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        if path.is_dir() && name != "target" && name != ".git" {
            files.extend(texts(&path));
        } else if TEXTS.iter().any(|ending| name.ends_with(ending)) || name == "test" {
            files.push(path);
        }
    }
    files
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// The names in one section of a manifest.
fn section(manifest: &Path, section: &str) -> Vec<String> {
    let table: toml::Table = read(manifest).parse().unwrap();
    let section = table.get(section).and_then(toml::Value::as_table);
    section.map(|section| section.keys().cloned().collect()).unwrap_or_default()
}

/// What a manifest's product needs (not its tests and benches).
fn dependencies(manifest: &Path) -> Vec<String> {
    section(manifest, "dependencies")
}

/// A line without its comment and without what stands in string and character literals.
fn code_of(line: &str) -> String {
    let mut code = String::new();
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '/' if letters.peek() == Some(&'/') => break,
            '"' => {
                while let Some(inside) = letters.next() {
                    match inside {
                        '\\' => drop(letters.next()),
                        '"' => break,
                        _ => {}
                    }
                }
            }
            // A character literal, not a lifetime: one letter (or an escape) and a closing quote.
            '\'' => {
                let ahead: Vec<char> = letters.clone().take(3).collect();
                let skip = match ahead.as_slice() {
                    ['\\', _, '\''] => 3,
                    [_, '\'', ..] => 2,
                    _ => 0,
                };
                letters.by_ref().take(skip).for_each(drop);
            }
            _ => code.push(letter),
        }
    }
    code
}

#[test]
fn dependencies_point_down() {
    for (room, allowed) in ROOMS {
        let manifest = root().join(room).join("Cargo.toml");
        for name in dependencies(&manifest) {
            let is_room = ROOMS.iter().any(|(other, _)| *other == name);
            assert!(!is_room || allowed.contains(&name.as_str()), "{room} must not depend on {name}");
        }
    }
    let own = dependencies(&root().join("Cargo.toml"));
    for outsider in ["client", "loadtest", "tokio"] {
        assert!(!own.contains(&outsider.to_owned()), "the server must not depend on {outsider}");
    }
}

#[test]
fn every_room_is_listed_here() {
    let table: toml::Table = read(&root().join("Cargo.toml")).parse().unwrap();
    let members = table["workspace"]["members"].as_array().unwrap();
    let mut members: Vec<&str> =
        members.iter().map(|member| member.as_str().unwrap()).filter(|name| *name != ".").collect();
    let mut rooms: Vec<&str> = ROOMS.iter().map(|(room, _)| *room).collect();
    members.sort_unstable();
    rooms.sort_unstable();
    assert_eq!(members, rooms);
}

#[test]
fn only_the_runtime_room_names_the_runtime_crate() {
    for path in all_files().into_iter().filter(|path| !path.starts_with(root().join("runtime"))) {
        for (number, line) in read(&path).lines().enumerate() {
            assert!(!code_of(line).contains("monoio"), "{}:{}", shown(&path), number + 1);
        }
    }
    for room in ROOMS.iter().map(|(room, _)| *room).filter(|room| *room != "runtime").chain(["."]) {
        for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
            let names = section(&root().join(room).join("Cargo.toml"), kind);
            assert!(!names.contains(&"monoio".to_owned()), "{room}/Cargo.toml");
        }
    }
}

#[test]
fn unsafe_lives_only_in_the_runtime_and_the_frame_layer() {
    let homes = [root().join("runtime"), root().join("proto").join("src").join("frame")];
    for path in all_files().into_iter().filter(|path| !homes.iter().any(|home| path.starts_with(home))) {
        for (number, line) in read(&path).lines().enumerate() {
            let code = code_of(line);
            let named =
                code.split(|letter: char| !letter.is_alphanumeric() && letter != '_').any(|word| word == "unsafe");
            assert!(!named, "{}:{} names unsafe", shown(&path), number + 1);
        }
    }
}

#[test]
fn nothing_is_left_undone() {
    let marks = ["todo!", "unimplemented!", "dbg!(", "FIXME", "TODO"];
    for path in all_files() {
        for (number, line) in read(&path).lines().enumerate() {
            for mark in marks {
                assert!(!line.contains(mark), "{}:{} says {mark}", shown(&path), number + 1);
            }
        }
    }
}

#[test]
fn nothing_names_a_place_on_somebodys_machine() {
    let places = ["work", "home", "root", "tmp", "Users"].map(|place| format!("/{place}/"));
    for path in texts(&root()) {
        for (number, line) in read(&path).lines().enumerate() {
            for place in &places {
                assert!(!line.contains(place.as_str()), "{}:{} names {place}", shown(&path), number + 1);
            }
        }
    }
}

#[test]
fn files_stay_short() {
    for path in all_files() {
        let lines = read(&path).lines().count();
        assert!(
            lines <= LINES_PER_FILE_MAX,
            "{} has {lines} lines; some concept in it wants its own file",
            shown(&path)
        );
    }
}

#[test]
fn functions_fit_a_screen() {
    for path in all_files() {
        for (start, length) in functions(&read(&path)) {
            assert!(
                length <= LINES_PER_FUNCTION_MAX,
                "{}:{start} starts a function of {length} lines; some concept in it wants its own name",
                shown(&path)
            );
        }
    }
}

/// Where functions start (line, from 1) and how many lines they take. Relies on rustfmt: a function's closing brace
/// stands in the column of its first line.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let indent = line.len() - line.trim_start().len();
        let code = code_of(line);
        let mut words = code.split_whitespace();
        let is_function = words.by_ref().take_while(|word| *word != "=").any(|word| word == "fn");
        if !is_function || line.trim_end().ends_with(';') || line.trim_end().ends_with('}') {
            continue;
        }
        let closing = format!("{}}}", " ".repeat(indent));
        if let Some(length) = lines[at..].iter().position(|line| line.trim_end() == closing) {
            found.push((at + 1, length + 1));
        }
    }
    found
}

#[test]
fn every_file_says_what_it_is() {
    for path in product_files() {
        let text = read(&path);
        let docs: Vec<&str> = text.lines().take_while(|line| line.starts_with("//!")).collect();
        let words: usize = docs.iter().map(|line| line.split_whitespace().count()).sum();
        assert!(words >= 8, "{} does not open with what it owns and promises", shown(&path));
    }
}

#[test]
fn names_say_what_a_thing_is() {
    let empty = ["manager", "helper", "helpers", "util", "utils", "common", "misc"];
    for path in product_files() {
        let within = path.strip_prefix(root()).unwrap().with_extension("");
        let mut names = within.components().filter_map(|name| name.as_os_str().to_str());
        assert!(!names.any(|name| empty.contains(&name)), "{}", shown(&path));
    }
}

#[test]
fn the_checks_see_what_they_are_meant_to_see() {
    assert_eq!(code_of(r#"let a = "unsafe // monoio"; b // unsafe"#), "let a = ; b ");
    assert_eq!(code_of("if c == '\"' { unsafe }").trim(), "if c ==  { unsafe }");
    let text = "impl A {\n    fn short() {}\n\n    pub async fn long(\n        a: u8,\n    ) {\n        a;\n    }\n}\n";
    assert_eq!(functions(text), [(4, 5)]);
    let versions: BTreeMap<_, _> = ROOMS.iter().copied().collect();
    assert_eq!(versions.len(), ROOMS.len());
}
