//! Passwords: hashed with argon2id by OWASP's parameters, checked against those or the bcrypt hashes of earlier accounts.
//! Slow by intent (tens of milliseconds): only ever called on the compute pool. It never says why a password was wrong.

use argon2::password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString};
use argon2::{Algorithm, Argon2, Params, Version};
use hub::account::PASSWORD_BYTES_MAX;

/// OWASP Password Storage Cheat Sheet: argon2id with 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19_456;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// bcrypt costs above this are refused: each step doubles the time, and the hash comes from a table that others filled.
const BCRYPT_COST_MAX: u32 = 14;

/// A hash that no password matches, for accounts that sign in by other means.
pub(crate) const NO_PASSWORD: &str = "!";

/// What checking a password found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Checked {
    /// Wrong.
    Wrong,
    /// Right.
    Right,
    /// Right, and here is a hash by today's parameters to keep instead.
    Upgrade(String),
}

fn argon2() -> Argon2<'static> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None).expect("OWASP's parameters are within argon2's limits");
    Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
}

/// Hashes a new password; the text says parameters and salt (PHC).
pub(crate) fn hash(password: &str, salt: [u8; 16]) -> Result<String, &'static str> {
    let salt = SaltString::encode_b64(&salt).map_err(|_| "the salt does not fit")?;
    let hash = argon2().hash_password(password.as_bytes(), &salt).map_err(|_| "the password cannot be hashed")?;
    Ok(hash.to_string())
}

/// Checks a password. With no stored hash (nobody by that name), and with a password that nobody can have, it does the same
/// work and finds it wrong: no answer comes early. `salt` is for the new hash when the stored one is of an earlier kind.
pub(crate) fn check(password: &str, stored: Option<&str>, salt: [u8; 16]) -> Checked {
    let password = if password.len() > PASSWORD_BYTES_MAX { "" } else { password };
    match stored {
        Some(stored) if stored.starts_with("$2") => check_bcrypt(password, stored, salt),
        Some(stored) if stored.starts_with("$argon2") => check_argon2(password, stored, salt),
        _ => wrong_after_the_same_work(password, salt),
    }
}

fn wrong_after_the_same_work(password: &str, salt: [u8; 16]) -> Checked {
    let _ = hash(password, salt);
    Checked::Wrong
}

fn check_argon2(password: &str, stored: &str, salt: [u8; 16]) -> Checked {
    let parsed = PasswordHash::new(stored).ok().filter(|parsed| parsed.salt.is_some() && parsed.hash.is_some());
    let Some(parsed) = parsed else { return wrong_after_the_same_work(password, salt) };
    // The work first: an empty password that is refused before it would tell that there is such an account.
    match argon2().verify_password(password.as_bytes(), &parsed) {
        Ok(()) if !password.is_empty() => {}
        Ok(()) | Err(argon2::password_hash::Error::Password) => return Checked::Wrong,
        // The hash is damaged, and nothing was worked out.
        Err(_) => return wrong_after_the_same_work(password, salt),
    }
    let is_current = Params::try_from(&parsed)
        .is_ok_and(|params| (params.m_cost(), params.t_cost(), params.p_cost()) == (MEMORY_KIB, PASSES, LANES))
        && parsed.algorithm.as_str() == "argon2id";
    if is_current { Checked::Right } else { upgrade(password, salt) }
}

fn check_bcrypt(password: &str, stored: &str, salt: [u8; 16]) -> Checked {
    let cost = stored.split('$').nth(2).and_then(|cost| cost.parse::<u32>().ok());
    if cost.is_none_or(|cost| cost > BCRYPT_COST_MAX) {
        return wrong_after_the_same_work(password, salt);
    }
    match bcrypt::verify(password, stored) {
        Ok(true) if !password.is_empty() => upgrade(password, salt),
        _ => Checked::Wrong,
    }
}

fn upgrade(password: &str, salt: [u8; 16]) -> Checked {
    hash(password, salt).map_or(Checked::Right, Checked::Upgrade)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_checks_only_its_password() {
        let stored = hash("correct horse", [1; 16]).unwrap();
        assert!(stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{stored}");
        assert_eq!(check("correct horse", Some(&stored), [2; 16]), Checked::Right);
        assert_eq!(check("correct horsf", Some(&stored), [2; 16]), Checked::Wrong);
        assert_eq!(check("correct horse", None, [2; 16]), Checked::Wrong);
        assert_eq!(check("", Some(NO_PASSWORD), [2; 16]), Checked::Wrong);
        assert_eq!(check(&"x".repeat(PASSWORD_BYTES_MAX + 1), Some(&stored), [2; 16]), Checked::Wrong);
    }

    #[test]
    fn no_password_is_found_wrong_without_the_work() {
        let stored = hash("correct horse", [1; 16]).unwrap();
        let least = |password: &str, stored: &str| {
            let took = |_| {
                let begun = std::time::Instant::now();
                assert_eq!(check(password, Some(stored), [2; 16]), Checked::Wrong);
                begun.elapsed()
            };
            (0..3).map(took).min().unwrap()
        };
        let ordinary = least("wrong horse", &stored);
        let costly = bcrypt::hash("correct horse", 4).unwrap().replace("$04$", "$31$");
        let long = "x".repeat(PASSWORD_BYTES_MAX + 1);
        for (password, stored) in [("", &*stored), (&long, &stored), ("wrong horse", &costly), ("", "$argon2id$broken")]
        {
            // Without the work it would be a thousandth.
            assert!(least(password, stored) > ordinary / 4, "{:.3} {stored}", password);
        }
    }

    #[test]
    fn an_earlier_accounts_bcrypt_hash_is_upgraded() {
        let stored = bcrypt::hash("correct horse", 4).unwrap();
        assert_eq!(check("wrong horse", Some(&stored), [3; 16]), Checked::Wrong);
        let Checked::Upgrade(upgraded) = check("correct horse", Some(&stored), [3; 16]) else { panic!("not upgraded") };
        assert_eq!(check("correct horse", Some(&upgraded), [4; 16]), Checked::Right);
    }

    #[test]
    fn a_costly_bcrypt_hash_is_not_worth_an_hour() {
        let stored = bcrypt::hash("correct horse", 4).unwrap().replace("$04$", "$31$");
        assert_eq!(check("correct horse", Some(&stored), [3; 16]), Checked::Wrong);
    }
}
