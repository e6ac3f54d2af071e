//! Who may do what: roles, scopes and sets of scopes. The spellings are those of the earlier system's tokens, so that its
//! clients read ours; a scope ending in `:*` covers every scope of its verb.

use std::fmt;
use std::str::FromStr;

use proto::ValueError;

/// What an account may be.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[repr(u8)]
pub enum Role {
    /// A reader.
    #[default]
    User = 1,
    /// Somebody who also looks after the catalogue and the accounts.
    Admin = 2,
}

impl Role {
    /// The spelling in JSON, tokens and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Admin => "admin",
        }
    }

    /// Everything that a person of this role may do.
    pub const fn scopes(self) -> ScopeSet {
        match self {
            Self::User => ScopeSet::USER,
            Self::Admin => ScopeSet::ADMIN,
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let found = [Self::User, Self::Admin].into_iter().find(|role| role.as_str() == text);
        found.ok_or(ValueError::new("role", "user or admin"))
    }
}

macro_rules! scopes {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        /// One thing that a grant may allow.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Scope { $($(#[$doc])* $name,)* }

        impl Scope {
            /// Every scope, in the order in which tokens list them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The spelling in tokens and JSON.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }
        }
    };
}

scopes! {
    /// Read the catalogue.
    ReadManga = "read:manga";
    /// Read one's library.
    ReadLibrary = "read:library";
    /// Read genres.
    ReadGenre = "read:genre";
    /// Read one's progress.
    ReadProgress = "read:progress";
    /// Write comments and ratings.
    WriteComment = "write:comment";
    /// Change one's account.
    WriteProfile = "write:profile";
    /// Speak in rooms.
    WriteCommunityChat = "write:community_chat";
    /// Change one's library.
    WriteLibrary = "write:library";
    /// Change one's progress.
    WriteProgress = "write:progress";
    /// Write anything, the catalogue included.
    WriteAll = "write:*";
    /// Delete anything.
    DeleteAll = "delete:*";
    /// Run the server.
    AdminAll = "admin:*";
}

impl fmt::Display for Scope {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(self.as_str())
    }
}

impl FromStr for Scope {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        let found = Self::ALL.iter().copied().find(|scope| scope.as_str() == text);
        found.ok_or(ValueError::new("scope", "one of the scopes of a user or an admin"))
    }
}

/// A set of scopes: what a grant allows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ScopeSet(u16);

impl ScopeSet {
    /// Nothing.
    pub const EMPTY: Self = Self(0);
    /// What a user may do.
    pub const USER: Self = Self((1 << Scope::WriteAll as u8) - 1);
    /// What an admin may do.
    pub const ADMIN: Self = Self((1 << Scope::ALL.len()) - 1);

    /// This set and one scope more.
    #[must_use]
    pub const fn with(self, scope: Scope) -> Self {
        Self(self.0 | 1 << scope as u8)
    }

    /// What both allow: an API key never allows more than its owner.
    #[must_use]
    pub const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Whether `scope` itself is listed.
    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u8) != 0
    }

    /// Whether this set allows `scope`: it is listed, or `write:*` stands for it.
    pub const fn allows(self, scope: Scope) -> bool {
        let written = matches!(
            scope,
            Scope::WriteComment
                | Scope::WriteProfile
                | Scope::WriteCommunityChat
                | Scope::WriteLibrary
                | Scope::WriteProgress
        );
        self.contains(scope) || (written && self.contains(Scope::WriteAll))
    }

    /// The listed scopes, in order.
    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.contains(*scope))
    }

    /// From the words of a token. Words that this server does not know allow nothing and are passed over: a newer server may
    /// have given them.
    pub fn from_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        words.into_iter().filter_map(|word| word.parse().ok()).fold(Self::EMPTY, Self::with)
    }
}

impl fmt::Debug for ScopeSet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_set().entries(self.iter().map(Scope::as_str)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_have_the_scopes_that_earlier_clients_expect() {
        let words = |set: ScopeSet| set.iter().map(Scope::as_str).collect::<Vec<_>>().join(" ");
        let user = "read:manga read:library read:genre read:progress write:comment write:profile \
                    write:community_chat write:library write:progress";
        assert_eq!(words(Role::User.scopes()), user);
        assert_eq!(words(Role::Admin.scopes()), format!("{user} write:* delete:* admin:*"));
    }

    #[test]
    fn a_star_covers_its_verb_and_no_other() {
        let set = ScopeSet::EMPTY.with(Scope::WriteAll);
        assert!(set.allows(Scope::WriteProgress) && set.allows(Scope::WriteAll));
        assert!(!set.allows(Scope::ReadManga) && !set.allows(Scope::AdminAll) && !set.allows(Scope::DeleteAll));
        assert!(!Role::User.scopes().allows(Scope::WriteAll));
    }

    #[test]
    fn scopes_survive_their_words_and_unknown_words_allow_nothing() {
        let words: Vec<_> = ScopeSet::ADMIN.iter().map(Scope::as_str).collect();
        assert_eq!(ScopeSet::from_words(words), ScopeSet::ADMIN);
        assert_eq!(ScopeSet::from_words(["read:everything", "", "*"]), ScopeSet::EMPTY);
        let key = ScopeSet::ADMIN.within(ScopeSet::EMPTY.with(Scope::ReadManga));
        assert_eq!(format!("{key:?}"), r#"{"read:manga"}"#);
    }
}
