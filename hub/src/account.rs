//! What an account is made of, parsed once at the door and then trusted: names, addresses and passwords. Folded forms decide
//! uniqueness: two accounts whose folded name or address is equal cannot both exist. A password never shows in debug output.

use std::fmt;

use proto::ValueError;

/// The longest password, in bytes: hashing cost must not be the caller's to choose.
pub const PASSWORD_BYTES_MAX: usize = 1_024;
/// The shortest password, in characters.
pub const PASSWORD_CHARS_MIN: usize = 8;

/// The name an account signs in with: 3 to 50 ASCII letters, digits, `.`, `_` or `-`, beginning with a letter or a digit.
/// There is no `@`, so a name is never taken for an address; and no letter outside ASCII, so no two names look alike.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Username(String);

impl Username {
    const WRONG: ValueError = ValueError::new(
        "username",
        "3 to 50 letters (a-z), digits, dots, hyphens or underscores, beginning with a letter or a digit",
    );

    /// Parses a name. Surrounding blanks are not forgiven: a name is what was typed.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
        let valid =
            (3..=50).contains(&text.len()) && text.bytes().all(allowed) && text.as_bytes()[0].is_ascii_alphanumeric();
        if valid { Ok(Self(text.to_owned())) } else { Err(Self::WRONG) }
    }

    /// As it was typed: what others see.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In lower case: what has to be unique.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl fmt::Display for Username {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// An email address that could be one: `local@domain` with a dot-atom (RFC 5322, 3.2.3) before the `@`, and after it two or
/// more labels of letters, digits and hyphens. Quoted local parts and address literals are refused; whether somebody reads
/// mail there only a mail can tell.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Email(String);

impl Email {
    const WRONG: ValueError = ValueError::new("email", "an address such as name@example.org, at most 254 characters");

    /// Parses an address.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let (local, domain) = text.rsplit_once('@').ok_or(Self::WRONG)?;
        // Lengths: RFC 5321, 4.5.3.1, and its erratum 1690 for the whole.
        let valid = text.len() <= 254 && is_dot_atom(local) && is_domain(domain);
        if valid { Ok(Self(text.to_owned())) } else { Err(Self::WRONG) }
    }

    /// As it was typed: where mail goes.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// In lower case, the part before the `@` too: what has to be unique. Mail systems may tell cases apart (RFC 5321, 2.4),
    /// but people do not, and two accounts must not differ by what a person overlooks.
    pub fn folded(&self) -> String {
        self.0.to_ascii_lowercase()
    }
}

impl fmt::Display for Email {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

fn is_dot_atom(local: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte);
    local.len() <= 64 && local.split('.').all(|atom| !atom.is_empty() && atom.bytes().all(allowed))
}

fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    domain.contains('.') && domain.split('.').all(is_label)
}

/// What somebody signs in with: a name, or an address when it has an `@`. Already folded.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum SignInName {
    /// A folded username.
    Username(String),
    /// A folded address.
    Email(String),
}

impl SignInName {
    /// Parses either. What is neither is no account's name, so the caller may answer as for an unknown user.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        if text.contains('@') {
            Email::parse(text).map(|email| Self::Email(email.folded()))
        } else {
            Username::parse(text).map(|name| Self::Username(name.folded()))
        }
    }
}

/// A new password: at least 8 characters, at most 1,024 bytes, any characters. Not for checking an existing one, which may
/// have been made under other rules: there only the upper limit counts.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Parses a new password.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let valid = text.len() <= PASSWORD_BYTES_MAX && text.chars().count() >= PASSWORD_CHARS_MIN;
        let wrong = ValueError::new("password", "at least 8 characters and at most 1024 bytes");
        if valid { Ok(Self(text.to_owned())) } else { Err(wrong) }
    }

    /// For the hash function only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Password(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usernames_keep_their_case_and_fold_for_uniqueness() {
        let name = Username::parse("Reader.One-2_x").unwrap();
        assert_eq!((name.as_str(), name.folded().as_str()), ("Reader.One-2_x", "reader.one-2_x"));
        assert!(Username::parse(&"a".repeat(50)).is_ok());
        for bad in ["", "ab", "a b c", "jörg", "me@here", "-abc", ".abc", "abc\n", " abc", &"a".repeat(51)] {
            assert!(Username::parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn email_addresses_are_checked_for_sense() {
        for good in ["a@b.co", "first.last+tag@mail.example.org", "O'Neil@ex-ample.com"] {
            assert!(Email::parse(good).is_ok(), "{good}");
        }
        let long = format!("{}@example.org", "a".repeat(65));
        for bad in
            ["", "@", "a@", "@b.co", "a@b", "a b@c.de", "a@b..co", "a@-b.co", ".a@b.co", "a.@b.co", "a@b@c.de", &long]
        {
            assert!(Email::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(Email::parse("Me@Example.ORG").unwrap().folded(), "me@example.org");
    }

    #[test]
    fn a_sign_in_name_is_an_address_exactly_when_it_has_an_at() {
        assert_eq!(SignInName::parse("Ann"), Ok(SignInName::Username("ann".into())));
        assert_eq!(SignInName::parse("Ann@x.org"), Ok(SignInName::Email("ann@x.org".into())));
        assert!(SignInName::parse("a@").is_err());
    }

    #[test]
    fn passwords_count_characters_below_and_bytes_above() {
        assert!(Password::parse("pässwör").is_err());
        assert!(Password::parse("pässwört").is_ok());
        assert!(Password::parse(&"x".repeat(1_024)).is_ok());
        assert!(Password::parse(&"x".repeat(1_025)).is_err());
        assert!(!format!("{:?}", Password::parse("hunter2hunter2").unwrap()).contains("hunter"));
    }
}
