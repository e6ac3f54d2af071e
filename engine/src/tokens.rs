//! Tokens: access tokens are JWTs (RFC 7519) signed with a pinned algorithm, refresh tokens are 256 random bits of which only
//! a hash is kept. A token proves who made the request; whether its grant still stands is asked elsewhere. Nothing here waits.

use std::time::Duration;

use hub::{Role, ScopeSet};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use proto::{Code, SessionId, UserId};
use ring::digest;
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};
use storage::store::TokenHash;

use crate::config::TokenConfig;
use crate::fault::Fault;
use crate::grants::Grant;

/// Who made the token, and who accepts it.
const ISSUER: &str = "mangahub";

/// The shortest HS256 secret: as long as the hash (RFC 7518, 3.2).
pub(crate) const SECRET_BYTES_MIN: usize = 32;

/// The longest bearer token looked at: ours are below 1 KiB.
const BEARER_BYTES_MAX: usize = 4_096;

#[derive(Serialize, Deserialize)]
struct Claims {
    user_id: UserId,
    username: String,
    email: String,
    role: String,
    scopes: Vec<String>,
    iss: String,
    sub: UserId,
    sid: SessionId,
    iat: u64,
    exp: u64,
    jti: SessionId,
}

/// Whom a token is made for.
pub(crate) struct Subject<'a> {
    pub(crate) user: UserId,
    pub(crate) username: &'a str,
    pub(crate) email: &'a str,
    pub(crate) role: Role,
    pub(crate) session: SessionId,
}

/// The keys and lifetimes.
pub(crate) struct Tokens {
    header: Header,
    signing: EncodingKey,
    /// By key id; the current one first.
    verifying: Vec<(String, DecodingKey)>,
    validation: Validation,
    access_ttl: Duration,
    refresh_ttl: Duration,
}

/// A refresh token as its client keeps it, and what the store keeps.
pub(crate) struct RefreshToken {
    pub(crate) text: String,
    pub(crate) hash: TokenHash,
}

impl Tokens {
    /// From the configuration, whose secrets have been found long enough.
    pub(crate) fn new(config: &TokenConfig) -> Self {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        let keys =
            std::iter::once((&config.key_id, &config.secret)).chain(config.previous.iter().map(|(id, key)| (id, key)));
        Self {
            header: Header { kid: Some(config.key_id.clone()), ..Header::new(Algorithm::HS256) },
            signing: EncodingKey::from_secret(&config.secret),
            verifying: keys.map(|(id, key)| (id.clone(), DecodingKey::from_secret(key))).collect(),
            validation,
            access_ttl: config.access_ttl,
            refresh_ttl: config.refresh_ttl,
        }
    }

    /// How long an access token lives.
    pub(crate) fn access_ttl_s(&self) -> u64 {
        self.access_ttl.as_secs()
    }

    /// How long a refresh token lives, and so the longest that anything may name a session.
    pub(crate) fn refresh_ttl_ms(&self) -> u64 {
        self.refresh_ttl.max(self.access_ttl).as_millis() as u64
    }

    /// Makes an access token that lives for `ttl_s`.
    pub(crate) fn sign(&self, subject: &Subject<'_>, now_ms: u64, ttl_s: u64) -> Result<String, Fault> {
        let issued_s = now_ms / 1_000;
        let claims = Claims {
            user_id: subject.user,
            username: subject.username.to_owned(),
            email: subject.email.to_owned(),
            role: subject.role.as_str().to_owned(),
            scopes: subject.role.scopes().iter().map(|scope| scope.as_str().to_owned()).collect(),
            iss: ISSUER.to_owned(),
            sub: subject.user,
            sid: subject.session,
            iat: issued_s,
            exp: issued_s.saturating_add(ttl_s),
            jti: SessionId::new_v7(),
        };
        jsonwebtoken::encode(&self.header, &claims, &self.signing).map_err(|error| {
            tracing::error!(%error, "an access token could not be signed");
            Fault::new(Code::Internal, "The token could not be made.")
        })
    }

    /// Checks a bearer token's signature, issuer and expiry.
    pub(crate) fn verify(&self, bearer: &str) -> Result<Grant, Fault> {
        let refused = |detail: &'static str| Fault::new(Code::Unauthenticated, detail);
        if bearer.len() > BEARER_BYTES_MAX {
            return Err(refused("The token is too long to be one of ours."));
        }
        let header = jsonwebtoken::decode_header(bearer).map_err(|_| refused("The token is not a JWT."))?;
        let key = match &header.kid {
            Some(id) => self.verifying.iter().find(|(known, _)| known == id),
            None => self.verifying.first(),
        };
        let (_, key) = key.ok_or_else(|| refused("The token was signed with a key that is not in use."))?;
        let claims = jsonwebtoken::decode::<Claims>(bearer, key, &self.validation).map_err(|error| {
            refused(match error.kind() {
                jsonwebtoken::errors::ErrorKind::ExpiredSignature => {
                    "The token has expired; refresh it or sign in again."
                }
                _ => "The token is not valid.",
            })
        })?;
        let Claims { user_id, username, role, scopes, sub, sid, iat, exp, .. } = claims.claims;
        if sub != user_id || sid.is_nil() {
            return Err(refused("The token is not valid."));
        }
        let role = role.parse().map_err(|_| refused("The token is not valid."))?;
        let scopes = ScopeSet::from_words(scopes.iter().map(String::as_str));
        Ok(Grant { id: sid, user: user_id, username, role, scopes, issued_at_s: iat, expires_at_s: exp })
    }
}

impl RefreshToken {
    /// A new one.
    pub(crate) fn generate() -> Result<Self, Fault> {
        let mut bytes = [0; 32];
        SystemRandom::new().fill(&mut bytes).map_err(|_| Fault::new(Code::Internal, "No randomness is to be had."))?;
        let text: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let hash = Self::hash(&text);
        Ok(Self { text, hash })
    }

    /// What the store keeps of a token that a client presents.
    pub(crate) fn hash(text: &str) -> TokenHash {
        let digest = digest::digest(&digest::SHA256, text.as_bytes());
        std::array::from_fn(|at| digest.as_ref()[at])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_900_000_000_000;

    fn config(key_id: &str, secret: u8) -> TokenConfig {
        TokenConfig {
            secret: vec![secret; 32],
            key_id: key_id.to_owned(),
            previous: Vec::new(),
            access_ttl: Duration::from_secs(900),
            refresh_ttl: Duration::from_secs(86_400),
        }
    }

    fn token(tokens: &Tokens, now_ms: u64) -> String {
        let user = UserId::from_bytes([7; 16]);
        let session = SessionId::from_bytes([9; 16]);
        let subject = Subject { user, username: "ann", email: "ann@example.org", role: Role::User, session };
        tokens.sign(&subject, now_ms, 900).unwrap()
    }

    #[test]
    fn a_token_says_who_and_until_when() {
        let tokens = Tokens::new(&config("a", 1));
        let grant = tokens.verify(&token(&tokens, NOW_MS)).unwrap();
        assert_eq!((grant.user, grant.username.as_str()), (UserId::from_bytes([7; 16]), "ann"));
        assert_eq!((grant.issued_at_s, grant.expires_at_s), (NOW_MS / 1_000, NOW_MS / 1_000 + 900));
        assert!(grant.require("write:progress").is_ok() && grant.require("admin:server").is_err());
    }

    #[test]
    fn expired_forged_and_unsigned_tokens_are_refused() {
        let tokens = Tokens::new(&config("a", 1));
        let expired = tokens.verify(&token(&tokens, 1_000_000)).unwrap_err();
        assert!(expired.detail.contains("expired"), "{expired}");
        assert!(tokens.verify(&token(&Tokens::new(&config("a", 2)), NOW_MS)).is_err());
        assert!(tokens.verify(&token(&Tokens::new(&config("b", 1)), NOW_MS)).is_err());
        // {"alg":"none"} and the body of a good token.
        let good = token(&tokens, NOW_MS);
        let body = good.split('.').nth(1).unwrap();
        for unsigned in
            [format!("eyJhbGciOiJub25lIn0.{body}."), format!("eyJhbGciOiJub25lIn0.{body}"), "x".into(), String::new()]
        {
            assert!(tokens.verify(&unsigned).is_err(), "{unsigned}");
        }
    }

    #[test]
    fn an_earlier_key_still_verifies() {
        let old = Tokens::new(&config("a", 1));
        let mut rotated = config("b", 2);
        rotated.previous.push(("a".to_owned(), vec![1; 32]));
        let new = Tokens::new(&rotated);
        assert!(new.verify(&token(&old, NOW_MS)).is_ok());
        assert!(new.verify(&token(&new, NOW_MS)).is_ok());
        assert!(old.verify(&token(&new, NOW_MS)).is_err());
    }
}
