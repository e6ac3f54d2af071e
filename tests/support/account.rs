//! People: registered and signed in through the HTTP door, as a client would.

use proto::MangaId;
use serde_json::{Value, json};

use super::{Answer, Server};

/// Everybody's password.
pub(crate) const PASSWORD: &str = "correct horse battery";

/// A signed-in user.
#[derive(Debug, Clone)]
pub(crate) struct Reader {
    pub(crate) token: String,
    pub(crate) refresh_token: String,
}

impl Reader {
    /// Makes an account and signs in.
    #[track_caller]
    pub(crate) fn register(server: &Server, username: &str) -> Self {
        let email = format!("{username}@example.com");
        let body = json!({"username": username, "password": PASSWORD, "email": email});
        server.request("POST", "/auth/register").json(&body).send().expect(201);
        Self::sign_in(server, username)
    }

    /// Signs in once more: another session.
    #[track_caller]
    pub(crate) fn sign_in(server: &Server, username: &str) -> Self {
        let body = json!({"username": username, "password": PASSWORD});
        let answer = server.request("POST", "/auth/login").json(&body).send().expect(200).json();
        let text = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("no {name}: {answer}")).to_owned();
        Self { token: text("access_token"), refresh_token: text("refresh_token") }
    }

    /// Sets progress over HTTP.
    pub(crate) fn put_progress(&self, server: &Server, manga: MangaId, body: &Value) -> Answer {
        server.request("PUT", &format!("/api/progress/{manga}")).bearer(&self.token).json(body).send()
    }

    /// Reads progress over HTTP.
    #[track_caller]
    pub(crate) fn progress(&self, server: &Server, manga: MangaId) -> Value {
        server.request("GET", &format!("/api/progress/{manga}")).bearer(&self.token).send().expect(200).json()
    }

    /// The id of a series of the catalogue.
    #[track_caller]
    pub(crate) fn series(&self, server: &Server, slug: &str) -> MangaId {
        let answer = server.request("GET", &format!("/api/manga/{slug}")).bearer(&self.token).send().expect(200).json();
        MangaId(answer["id"].as_i64().unwrap())
    }
}
