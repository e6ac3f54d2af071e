//! What clients send over HTTP, read once and turned into the product's types: bodies within their limit, JSON objects
//! field by field, query strings and path segments. Every wrong field is named, and nothing here can fail with a 500.

use std::borrow::Cow;
use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::str::FromStr;

use bytes::Bytes;
use engine::fault::FieldFault;
use engine::{Extra, Fault};
use http::HeaderMap;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt;
use proto::{Chapter, Code};
use serde_json::{Map, Value};

/// Bytes of bodies that a shard holds at a time while they come in. Each alone is small, but a client may send one on every
/// stream of every connection and leave them all unfinished.
const HELD_BYTES_MAX: usize = 64 * 1024 * 1024;

/// What each body may hold beside that: whoever fills the shared room keeps nobody from signing in or from reading on.
const OWN_BYTES: usize = 16 * 1024;

/// What may come, and who else is sending.
pub(crate) struct Room {
    /// One body's limit.
    pub(crate) bytes_max: usize,
    /// What the shard holds of all bodies.
    pub(crate) held: Rc<Cell<usize>>,
}

/// Reads a JSON object from a body; an absent body is an empty object when `optional`.
pub(crate) async fn object<B>(headers: &HeaderMap, body: B, room: Room, optional: bool) -> Result<Fields, Fault>
where
    B: hyper::body::Body<Data = Bytes>,
{
    let bytes_max = room.bytes_max;
    let announced = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|bytes| bytes > bytes_max as u64) {
        return Err(too_large(bytes_max));
    }
    let mut body = std::pin::pin!(body);
    let mut bytes = Held { bytes: Vec::new(), held: room.held };
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Fault::new(Code::InvalidInput, "the body ended before it was complete"))?;
        // Trailers say nothing that we ask for.
        let Ok(data) = frame.into_data() else { continue };
        if data.len() > bytes_max - bytes.bytes.len() {
            return Err(too_large(bytes_max));
        }
        bytes.add(&data)?;
    }
    let bytes = &bytes.bytes[..];
    if bytes.is_empty() && optional {
        return Ok(Fields::new(Map::new()));
    }
    require_json(headers)?;
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(members)) => Ok(Fields::new(members)),
        Ok(_) => Err(Fault::new(Code::InvalidInput, "the body must be a JSON object")),
        Err(problem) => Err(Fault::new(Code::InvalidInput, format!("the body is not JSON: {problem}"))),
    }
}

/// What has come of a body, counted for as long as it is held.
struct Held {
    bytes: Vec<u8>,
    held: Rc<Cell<usize>>,
}

impl Held {
    fn add(&mut self, data: &[u8]) -> Result<(), Fault> {
        let more = shared(self.bytes.len() + data.len()) - shared(self.bytes.len());
        if more > 0 && self.held.get() + more > HELD_BYTES_MAX {
            metrics::counter!("mangahub_refused_total", "kind" => "body", "reason" => "held_bytes").increment(1);
            return Err(Fault::busy("Too many large requests at once; try again in a moment."));
        }
        self.held.set(self.held.get() + more);
        self.bytes.extend_from_slice(data);
        Ok(())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.held.set(self.held.get() - shared(self.bytes.len()));
    }
}

/// How much of a body takes of the shared room.
fn shared(bytes: usize) -> usize {
    bytes.saturating_sub(OWN_BYTES)
}

fn too_large(bytes_max: usize) -> Fault {
    Fault::new(Code::TooLarge, format!("the body may have at most {bytes_max} bytes"))
}

/// A body must say that it is JSON. That is also what keeps web pages elsewhere out: a browser sends a body without a type, or
/// with one of the few that forms have, to any server without asking it first (Fetch, CORS-safelisted request headers).
fn require_json(headers: &HeaderMap) -> Result<(), Fault> {
    let text = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media = text.split(';').next().unwrap_or_default().trim();
    let json = media.eq_ignore_ascii_case("application/json")
        || media.rsplit_once('+').is_some_and(|(kind, suffix)| !kind.is_empty() && suffix.eq_ignore_ascii_case("json"));
    if json { Ok(()) } else { Err(Fault::new(Code::UnsupportedMediaType, "send the body as application/json")) }
}

/// The members of a body, taken one by one; wrong ones are gathered, so that a client hears of all of them at once.
/// Members that nobody asks for are ignored.
pub(crate) struct Fields {
    members: Map<String, Value>,
    wrong: Vec<FieldFault>,
}

impl Fields {
    fn new(members: Map<String, Value>) -> Self {
        Self { members, wrong: Vec::new() }
    }

    /// Notes that a field is wrong.
    pub(crate) fn refuse(&mut self, field: &'static str, message: impl Into<String>) {
        self.wrong.push(FieldFault { field: Cow::Borrowed(field), message: message.into() });
    }

    /// A field through `read`; null counts as absent.
    pub(crate) fn optional<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.members.get(field).filter(|value| !value.is_null())?;
        match read(value) {
            Ok(value) => Some(value),
            Err(message) => {
                self.refuse(field, message);
                None
            }
        }
    }

    /// A field that must be there.
    pub(crate) fn required<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&Value) -> Result<T, String>,
    ) -> Option<T> {
        if self.members.get(field).is_none_or(Value::is_null) {
            self.refuse(field, "is missing");
            return None;
        }
        self.optional(field, read)
    }

    /// What was read, unless a field was wrong. `None` inside `read` without a noted field cannot happen for required ones.
    pub(crate) fn finish<T>(self, read: Option<T>) -> Result<T, Fault> {
        match read {
            Some(read) if self.wrong.is_empty() => Ok(read),
            _ => {
                let detail = match self.wrong.first() {
                    Some(first) => format!("{}: {}", first.field, first.message),
                    None => "the request is not valid".to_owned(),
                };
                Err(Fault { code: Code::InvalidInput, detail: detail.into(), extra: Extra::Fields(self.wrong) })
            }
        }
    }
}

/// Readers of single values.
pub(crate) mod read {
    use super::*;

    /// Text.
    pub(crate) fn text(value: &Value) -> Result<String, String> {
        value.as_str().map(str::to_owned).ok_or_else(|| "must be text".to_owned())
    }

    /// Anything that text can spell.
    pub(crate) fn spelled<T: FromStr>(value: &Value) -> Result<T, String>
    where
        T::Err: std::fmt::Display,
    {
        let text = value.as_str().ok_or_else(|| "must be text".to_owned())?;
        text.parse().map_err(|problem: T::Err| problem.to_string())
    }

    /// Yes or no.
    pub(crate) fn flag(value: &Value) -> Result<bool, String> {
        value.as_bool().ok_or_else(|| "must be true or false".to_owned())
    }

    /// A chapter: a number, or a number in quotes.
    pub(crate) fn chapter(value: &Value) -> Result<Chapter, String> {
        let chapter = match value {
            Value::Number(number) => Chapter::from_f64(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => text.parse(),
            _ => Chapter::from_f64(f64::NAN),
        };
        chapter.map_err(|problem| problem.to_string())
    }

    /// A whole number that fits.
    pub(crate) fn whole<T: TryFrom<u64>>(value: &Value) -> Result<T, String> {
        let number = value.as_u64().and_then(|number| T::try_from(number).ok());
        number.ok_or_else(|| "must be a whole number, not negative and not too large".to_owned())
    }

    /// A series as its id or slug, as text.
    pub(crate) fn series(value: &Value) -> Result<String, String> {
        match value {
            Value::Number(number) if number.as_i64().is_some_and(|id| id > 0) => Ok(number.to_string()),
            Value::String(text) if !text.is_empty() => Ok(text.clone()),
            _ => Err("must be the id or the slug of a series".to_owned()),
        }
    }
}

/// The parameters of a query string.
pub(crate) struct Query<'a> {
    raw: &'a str,
}

impl<'a> Query<'a> {
    /// Over what follows the question mark.
    pub(crate) fn new(raw: Option<&'a str>) -> Self {
        Self { raw: raw.unwrap_or_default() }
    }

    /// The first value of a parameter; empty counts as absent.
    pub(crate) fn get(&self, name: &str) -> Option<Cow<'a, str>> {
        let pairs = self.raw.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).map(|(_, value)| unescape(value, true)).find(|value| !value.is_empty())
    }

    /// A whole number within its range.
    pub(crate) fn number(&self, name: &'static str, least: usize, most: usize, absent: usize) -> Result<usize, Fault> {
        let Some(text) = self.get(name) else { return Ok(absent) };
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| Fault::field(name, format!("must be a whole number from {least} to {most}")))
    }

    /// Yes or no; absent is no.
    pub(crate) fn flag(&self, name: &'static str) -> Result<bool, Fault> {
        match self.get(name).as_deref() {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(Fault::field(name, "must be true or false")),
        }
    }

    /// `page` and `page_size`, as the earlier system had them: from 1, and 20 of at most 100.
    pub(crate) fn page(&self) -> Result<(usize, usize), Fault> {
        Ok((self.number("page", 1, 1_000_000, 1)?, self.number("page_size", 1, 100, 20)?))
    }
}

/// Undoes percent-escapes; what is not a valid escape, or not UTF-8 afterwards, stays recognisably wrong and finds nothing.
pub(crate) fn unescape(text: &str, plus_is_space: bool) -> Cow<'_, str> {
    if !text.bytes().any(|byte| byte == b'%' || (plus_is_space && byte == b'+')) {
        return Cow::Borrowed(text);
    }
    let mut bytes: VecDeque<u8> = text.bytes().collect();
    let mut out = Vec::with_capacity(bytes.len());
    while let Some(byte) = bytes.pop_front() {
        let digit = |at: usize| bytes.get(at).and_then(|byte| char::from(*byte).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high * 16 + low) as u8);
                bytes.drain(..2);
            }
            (b'+', ..) if plus_is_space => out.push(b' '),
            _ => out.push(byte),
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        match value {
            Value::Object(members) => Fields::new(members),
            _ => unreachable!("tests hand in objects"),
        }
    }

    #[test]
    fn all_wrong_fields_are_named_at_once() {
        let mut body = fields(json!({"chapter": -1, "status": "asleep"}));
        let chapter = body.required("chapter", read::chapter);
        let _ = body.optional("status", read::spelled::<proto::ReadingStatus>);
        let _ = body.required("manga_id", read::series);
        let fault = body.finish(chapter).unwrap_err();
        let Extra::Fields(wrong) = fault.extra else { panic!("fields") };
        let names: Vec<_> = wrong.iter().map(|wrong| wrong.field.as_ref()).collect();
        assert_eq!(names, ["chapter", "status", "manga_id"]);
    }

    #[test]
    fn bodies_that_are_held_have_a_limit_together() {
        use futures_util::FutureExt;
        use http::HeaderValue;
        use http_body_util::Full;

        let held: Rc<Cell<usize>> = Rc::default();
        let read = |bytes: usize| {
            let mut text = b"{\"chapter\":1}".to_vec();
            text.resize(bytes, b' ');
            let body = Full::new(Bytes::from(text));
            let room = Room { bytes_max: 1024 * 1024, held: Rc::clone(&held) };
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
            let read = object(&headers, body, room, false).now_or_never().expect("the whole body is there");
            read.err().map(|fault| fault.code)
        };
        assert_eq!(read(1024 * 1024), None);
        assert_eq!(held.get(), 0, "what was read is held no longer");
        held.set(HELD_BYTES_MAX);
        assert_eq!(read(OWN_BYTES + 1), Some(Code::Busy));
        assert_eq!(read(OWN_BYTES), None, "an ordinary request is served whoever fills the room");
        assert_eq!(held.get(), HELD_BYTES_MAX);
    }

    #[test]
    fn null_is_absent() {
        let mut body = fields(json!({"page": null}));
        assert!(body.optional("page", read::whole::<u32>).is_none());
        assert!(body.finish(Some(())).is_ok());
    }

    #[test]
    fn escapes_are_undone_and_broken_ones_kept() {
        assert_eq!(unescape("one%20piece", false), "one piece");
        assert_eq!(unescape("a+b", true), "a b");
        assert_eq!(unescape("a+b", false), "a+b");
        assert_eq!(unescape("100%", false), "100%");
        assert_eq!(unescape("%zz%4", false), "%zz%4");
        assert_eq!(unescape("%ff", false), "\u{fffd}");
    }

    #[test]
    fn pages_have_bounds() {
        assert_eq!(Query::new(None).page().unwrap(), (1, 20));
        assert_eq!(Query::new(Some("page=3&page_size=100")).page().unwrap(), (3, 100));
        for bad in ["page=0", "page=x", "page_size=101", "page_size=0", "page=-1"] {
            assert!(Query::new(Some(bad)).page().is_err(), "{bad}");
        }
    }
}
