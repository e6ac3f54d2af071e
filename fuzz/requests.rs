//! HTTP requests from a seed, in the three parts of the corpus (target, content type, body): paths of the table with strange
//! parameters, queries, and JSON objects with strange values. Included by path, beside the driver.
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each test takes its part")]

use super::driver::{Dice, spoil};

/// A request without its line and headers.
#[derive(Clone, Debug)]
pub struct Parts {
    pub target: Vec<u8>,
    pub content_type: Vec<u8>,
    pub body: Vec<u8>,
}

impl Parts {
    pub fn parse(input: &[u8]) -> Self {
        let mut parts = input.splitn(3, |byte| *byte == b'\n');
        let mut next = || parts.next().unwrap_or_default().to_vec();
        Self { target: next(), content_type: next(), body: next() }
    }

    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.target[..], b"\n", &self.content_type, b"\n", &self.body].concat()
    }
}

pub const PATHS: &[&str] = &[
    "/auth/register",
    "/auth/login",
    "/auth/refresh",
    "/auth/revoke",
    "/api/me/sessions",
    "/api/me/sessions/{}",
    "/api/me/devices",
    "/api/me/devices/{}",
    "/api/progress",
    "/api/progress/{}",
    "/api/library",
    "/api/library/{}",
    "/api/manga",
    "/api/manga/{}",
    "/api/manga/search",
    "/api/v1/manga/{}",
    "/health/live",
    "/health/ready",
    "/check-conn",
    "/db-ping",
    "/openapi.json",
    "/ws",
    "/api/events",
    "/api/me/keys/{}",
    "/{}",
    "/api/{}",
    "/api/v1/v1/{}",
    "",
];

const PARAMETERS: &[&str] = &[
    "1",
    "2",
    "0",
    "-1",
    "9223372036854775807",
    "9223372036854775808",
    "one-piece",
    "search",
    "%00",
    "%ff%fe",
    "%",
    "%4",
    "%zz",
    "%2e%2e",
    "..",
    ".",
    "a%2Fb",
    "+",
    "%F0%9F%93%9A",
    "01890a5d-ac96-774b-bcce-b302099a8057",
    "me",
    "x;y",
    "~",
    "1e3",
    "%31",
];

const QUERIES: &[&str] = &[
    "page=1",
    "page=0",
    "page=1000001",
    "page_size=100",
    "page_size=101",
    "view=series",
    "view=history",
    "view=",
    "cursor=AAAA",
    "cursor=%ff",
    "manga_id=1",
    "manga_id=none",
    "status=reading",
    "status=plan-to-read",
    "status=x",
    "keep_current=true",
    "keep_current=2",
    "&",
    "&&",
    "=",
    "a",
    "page=%31",
    "page=+1",
    "limit=4",
    "q=%F0%9F%93%9A",
    "page=1&page=2",
    "cursor=MTIzNDU2Nzg5MDEyMzQ1Njc4OTA",
];

const FIELDS: &[&str] = &[
    "chapter",
    "page",
    "status",
    "device_id",
    "device_seq",
    "force",
    "conflict_token",
    "manga_id",
    "username",
    "email",
    "password",
    "refresh_token",
    "identifier",
    "login",
    "unknown",
];

const VALUES: &[&str] = &[
    "1",
    "1.5",
    "0",
    "-0",
    "-1",
    "0.005",
    "1e2",
    "1e400",
    "1e-400",
    "1000000",
    "1000000.01",
    "4294967296",
    "18446744073709551616",
    "\"5.5\"",
    "\"\"",
    "\"x\"",
    "null",
    "true",
    "false",
    "[]",
    "{}",
    "[[[[[[[[]]]]]]]]",
    "\"reading\"",
    "\"on-hold\"",
    "\"reader1\"",
    "\"a@example.org\"",
    "\"correct horse battery\"",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\"\\ud83d\\ude00\"",
    "\"01890a5d-ac96-774b-bcce-b302099a8057\"",
    "\"00112233445566778899aabbccddeeff\"",
    "\"one-piece\"",
    "{\"a\":{\"b\":1}}",
    "9007199254740993",
    "\"\u{1F4DA}\"",
];

const WORDS: &[&[u8]] = &[
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b":",
    b",",
    b"\\",
    b"null",
    b"%",
    b"%00",
    b"%ff",
    b"?",
    b"&",
    b"=",
    b"/",
    b"//",
    b"#",
    b"\0",
    b"\xff",
    b"+",
    b";",
    b"application/json",
    b"; charset=utf-8",
    b"+json",
];

/// A request of the corpus or of the table, its parts changed a little or more.
pub fn parts(dice: &mut Dice, corpus: &[Vec<u8>]) -> Parts {
    let mut parts = if dice.one_in(3) { Parts::parse(&corpus[dice.below(corpus.len())]) } else { made(dice) };
    if dice.one_in(3) {
        let target = dice.below(4);
        let part = match target {
            0 => &mut parts.target,
            1 => &mut parts.content_type,
            _ => &mut parts.body,
        };
        spoil(dice, part, 3, corpus, WORDS);
    }
    parts.target.retain(|byte| *byte != b'\n');
    parts.content_type.retain(|byte| *byte != b'\n');
    parts
}

fn made(dice: &mut Dice) -> Parts {
    let mut target = pick(dice, PATHS).replace("{}", pick(dice, PARAMETERS));
    if dice.one_in(8) {
        target.push('/');
    }
    for at in 0..dice.below(4) {
        target.push(if at == 0 { '?' } else { '&' });
        target.push_str(pick(dice, QUERIES));
    }
    let mut body = String::from("{");
    for at in 0..dice.below(6) {
        let (field, value) = (pick(dice, FIELDS), pick(dice, VALUES));
        body.push_str(&format!("{}\"{field}\":{value}", if at == 0 { "" } else { "," }));
    }
    body.push('}');
    if dice.one_in(8) {
        body.clear();
    }
    let content_type = *dice.pick(&[
        "application/json",
        "application/json; charset=utf-8",
        "",
        "text/plain",
        "a/b+json",
        "application/JSON",
    ]);
    Parts { target: target.into(), content_type: content_type.into(), body: body.into() }
}

fn pick(dice: &mut Dice, of: &[&'static str]) -> &'static str {
    of[dice.below(of.len())]
}
