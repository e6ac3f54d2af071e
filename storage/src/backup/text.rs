//! Rows as text, in the form that Postgres' COPY reads and writes (postgresql.org/docs/current/sql-copy.html, text format): a
//! line per row, tabs between columns, `\N` for NULL, a backslash before what would be mistaken. Postgres makes and takes it by
//! itself; this is the same for the embedded store.

use rusqlite::types::{Value, ValueRef};
use uuid::Uuid;

use super::tables::Kind;

/// A column that does not hold what its table says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Misfit;

/// Appends one column of a row.
pub(crate) fn write(out: &mut Vec<u8>, kind: Kind, value: ValueRef<'_>) -> Result<(), Misfit> {
    match (kind, value) {
        (Kind::Revision, _) => out.push(b'0'),
        (_, ValueRef::Null) => out.extend_from_slice(b"\\N"),
        (Kind::Id, ValueRef::Blob(bytes)) => {
            let id = Uuid::from_slice(bytes).map_err(|_| Misfit)?;
            out.extend_from_slice(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
        }
        (Kind::Bytes, ValueRef::Blob(bytes)) => {
            out.extend_from_slice(b"\\\\x");
            out.extend(bytes.iter().flat_map(|byte| [HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]));
        }
        (Kind::Text, ValueRef::Text(text)) => escape(out, text),
        (Kind::Int, ValueRef::Integer(number)) => out.extend_from_slice(number.to_string().as_bytes()),
        (Kind::Flag, ValueRef::Integer(flag @ (0 | 1))) => out.push(if flag == 1 { b't' } else { b'f' }),
        // The shortest text that is read back as the same number.
        (Kind::Float, ValueRef::Real(number)) => out.extend_from_slice(number.to_string().as_bytes()),
        _ => return Err(Misfit),
    }
    Ok(())
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn escape(out: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            plain => out.push(plain),
        }
    }
}

/// Reads one column of a row, as the embedded store keeps it.
pub(crate) fn read(kind: Kind, field: &[u8]) -> Result<Value, Misfit> {
    if field == b"\\N" {
        return Ok(Value::Null);
    }
    let plain = || std::str::from_utf8(field).map_err(|_| Misfit);
    Ok(match kind {
        Kind::Id => Value::Blob(Uuid::try_parse(plain()?).map_err(|_| Misfit)?.into_bytes().to_vec()),
        Kind::Bytes => Value::Blob(unhex(field.strip_prefix(b"\\\\x").ok_or(Misfit)?)?),
        Kind::Text => Value::Text(String::from_utf8(unescape(field)?).map_err(|_| Misfit)?),
        Kind::Int | Kind::Revision => Value::Integer(plain()?.parse().map_err(|_| Misfit)?),
        Kind::Float => Value::Real(plain()?.parse().map_err(|_| Misfit)?),
        Kind::Flag => Value::Integer(match field {
            b"t" => 1,
            b"f" => 0,
            _ => return Err(Misfit),
        }),
    })
}

fn unhex(digits: &[u8]) -> Result<Vec<u8>, Misfit> {
    let digit = |letter: u8| char::from(letter).to_digit(16).map(|digit| digit as u8).ok_or(Misfit);
    if !digits.len().is_multiple_of(2) {
        return Err(Misfit);
    }
    digits.chunks_exact(2).map(|pair| Ok(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn unescape(field: &[u8]) -> Result<Vec<u8>, Misfit> {
    let mut out = Vec::with_capacity(field.len());
    let mut bytes = field.iter();
    while let Some(&byte) = bytes.next() {
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        out.push(match bytes.next().ok_or(Misfit)? {
            b'b' => 8,
            b'f' => 12,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'v' => 11,
            &other => other,
        });
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(kind: Kind, value: &Value) -> String {
        let mut text = Vec::new();
        write(&mut text, kind, ValueRef::from(value)).unwrap();
        assert_eq!(&read(kind, &text).unwrap(), value, "{text:?}");
        assert!(!text.iter().any(|byte| b"\t\n\r".contains(byte)), "{text:?}");
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn every_kind_of_column_comes_back_as_it_was() {
        let id = Value::Blob((0..16).collect());
        assert_eq!(there_and_back(Kind::Id, &id), "00010203-0405-0607-0809-0a0b0c0d0e0f");
        assert_eq!(there_and_back(Kind::Bytes, &Value::Blob(vec![0, 255, 10])), r"\\x00ff0a");
        assert_eq!(there_and_back(Kind::Bytes, &Value::Blob(Vec::new())), r"\\x");
        let odd = "a\tb\nc\rd\\e \\N \u{b} \0 é";
        assert_eq!(there_and_back(Kind::Text, &Value::Text(odd.into())), "a\\tb\\nc\\rd\\\\e \\\\N \u{b} \0 é");
        assert_eq!(there_and_back(Kind::Text, &Value::Text(String::new())), "");
        assert_eq!(there_and_back(Kind::Text, &Value::Null), r"\N");
        for number in [i64::MIN, -1, 0, i64::MAX] {
            there_and_back(Kind::Int, &Value::Integer(number));
        }
        for number in [0.1 + 0.2, 1e-300, -7.25, f64::MAX] {
            there_and_back(Kind::Float, &Value::Real(number));
        }
        assert_eq!(there_and_back(Kind::Flag, &Value::Integer(1)), "t");
        // What Postgres writes for control characters.
        assert_eq!(read(Kind::Text, br"\b\f\v").unwrap(), Value::Text("\u{8}\u{c}\u{b}".into()));
    }

    #[test]
    fn a_column_that_holds_something_else_is_noticed() {
        for (kind, text) in [
            (Kind::Id, "0001"),
            (Kind::Bytes, r"\\x0"),
            (Kind::Bytes, r"\\xzz"),
            (Kind::Bytes, "00"),
            (Kind::Text, "half\\"),
            (Kind::Int, "1.5"),
            (Kind::Int, "9223372036854775808"),
            (Kind::Float, "much"),
            (Kind::Flag, "1"),
        ] {
            assert_eq!(read(kind, text.as_bytes()), Err(Misfit), "{kind:?} {text}");
        }
        let mut out = Vec::new();
        assert_eq!(write(&mut out, Kind::Id, ValueRef::Blob(&[1])), Err(Misfit));
        assert_eq!(write(&mut out, Kind::Flag, ValueRef::Integer(2)), Err(Misfit));
        assert_eq!(write(&mut out, Kind::Int, ValueRef::Text(b"1")), Err(Misfit));
    }
}
