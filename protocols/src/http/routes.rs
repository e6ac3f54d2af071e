//! The one table of HTTP routes: what the router matches, what a missing method is answered with, and what the OpenAPI
//! document says all come from here, so they cannot drift apart. What this version does not serve yet is in the table too
//! and answers 501.

use std::sync::LazyLock;

use Access::{Catalogue, Open, Scope, SignedIn};
use Call::NotYet;
use Takes::{Nothing, Object, OptionalObject};

/// What a caller needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// Nothing.
    Open,
    /// Nothing, or `read:manga` where the catalogue is closed.
    Catalogue,
    /// A sign-in.
    SignedIn,
    /// A sign-in with this scope.
    Scope(&'static str),
}

/// What the body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Takes {
    /// Not looked at.
    Nothing,
    /// A JSON object.
    Object,
    /// A JSON object, or nothing.
    OptionalObject,
}

/// What serves a route.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[rustfmt::skip]
pub(crate) enum Call {
    Register, Login, Refresh, Revoke,
    Sessions, EndSessions, EndSession, Devices, RemoveDevice,
    History, Progress, SetProgress, DeleteProgress,
    Library, AddToLibrary, SetStatus, RemoveFromLibrary,
    MangaList, Manga,
    Live, Ready, CheckConn, DbPing, OpenApi,
    NotYet,
}

/// One method of one path.
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// Segments in braces are parameters; at most one of them.
    pub(crate) path: &'static str,
    pub(crate) access: Access,
    pub(crate) takes: Takes,
    pub(crate) call: Call,
    /// The status of a good answer.
    pub(crate) status: u16,
    pub(crate) summary: &'static str,
}

type Row = (&'static str, &'static str, Access, Takes, Call, u16, &'static str);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    ("POST",   "/auth/register",              Open,                     Object,         Call::Register,          201, "Make an account"),
    ("POST",   "/auth/login",                 Open,                     Object,         Call::Login,             200, "Sign in by username or email"),
    ("POST",   "/auth/refresh",               Open,                     Object,         Call::Refresh,           200, "Trade a refresh token for new tokens; single use"),
    ("POST",   "/auth/revoke",                Open,                     Object,         Call::Revoke,            200, "End the session of a refresh token"),
    ("GET",    "/api/me/sessions",            SignedIn,                 Nothing,        Call::Sessions,          200, "My sessions"),
    ("DELETE", "/api/me/sessions",            Scope("write:profile"),   Nothing,        Call::EndSessions,       200, "End all my sessions; keep_current=true keeps this one"),
    ("DELETE", "/api/me/sessions/{id}",       Scope("write:profile"),   Nothing,        Call::EndSession,        204, "End one of my sessions; its connections close at once"),
    ("GET",    "/api/me/devices",             Scope("read:progress"),   Nothing,        Call::Devices,           200, "My devices"),
    ("DELETE", "/api/me/devices/{id}",        Scope("write:profile"),   Nothing,        Call::RemoveDevice,      204, "Forget one of my devices"),
    ("GET",    "/api/progress",               Scope("read:progress"),   Nothing,        Call::History,           200, "My reading history, newest first; view=series gives my progress in every series"),
    ("GET",    "/api/progress/{manga_id}",    Scope("read:progress"),   Nothing,        Call::Progress,          200, "My progress in a series"),
    ("PUT",    "/api/progress/{manga_id}",    Scope("write:progress"),  Object,         Call::SetProgress,       200, "Set my progress in a series; answered when it is durable"),
    ("POST",   "/api/progress/{manga_id}",    Scope("write:progress"),  Object,         Call::SetProgress,       200, "The same as PUT"),
    ("DELETE", "/api/progress/{manga_id}",    Scope("write:progress"),  Nothing,        Call::DeleteProgress,    204, "Forget my progress in a series"),
    ("GET",    "/api/library",                Scope("read:library"),    Nothing,        Call::Library,           200, "My library"),
    ("POST",   "/api/library",                Scope("write:library"),   Object,         Call::AddToLibrary,      201, "Put a series into my library"),
    ("PATCH",  "/api/library/{manga_id}",     Scope("write:library"),   Object,         Call::SetStatus,         200, "Change the reading status of a series"),
    ("DELETE", "/api/library/{manga_id}",     Scope("write:library"),   Nothing,        Call::RemoveFromLibrary, 204, "Take a series out of my library; progress stays"),
    ("GET",    "/api/manga",                  Catalogue,                Nothing,        Call::MangaList,         200, "The catalogue"),
    ("GET",    "/api/manga/{id}",             Catalogue,                Nothing,        Call::Manga,             200, "A series by id or slug; with my_progress when signed in"),
    ("GET",    "/health/live",                Open,                     Nothing,        Call::Live,              200, "The process runs"),
    ("GET",    "/health/ready",               Open,                     Nothing,        Call::Ready,             200, "It serves; degraded is not down"),
    ("GET",    "/check-conn",                 Open,                     Nothing,        Call::CheckConn,         200, "Is anybody there"),
    ("GET",    "/db-ping",                    Open,                     Nothing,        Call::DbPing,            200, "Is the store there"),
    ("GET",    "/openapi.json",               Open,                     Nothing,        Call::OpenApi,           200, "This document"),

    ("GET",    "/docs",                       Open,                     Nothing,        NotYet, 200, "The documentation for people"),
    ("GET",    "/ws",                         SignedIn,                 Nothing,        NotYet, 101, "Chat over WebSocket"),
    ("GET",    "/api/manga/search",           Catalogue,                Nothing,        NotYet, 200, "Search by title"),
    ("GET",    "/api/manga/advanced-search",  Catalogue,                Nothing,        NotYet, 200, "Search by many things"),
    ("POST",   "/api/manga",                  Scope("write:manga"),     Object,         NotYet, 201, "Add a series"),
    ("PUT",    "/api/manga/{id}",             Scope("write:manga"),     Object,         NotYet, 200, "Change a series"),
    ("DELETE", "/api/manga/{id}",             Scope("delete:manga"),    Nothing,        NotYet, 204, "Remove a series"),
    ("POST",   "/api/manga/{id}/sync",        Scope("write:manga"),     OptionalObject, NotYet, 200, "Ask upstream now"),
    ("GET",    "/api/manga/{id}/chapters",    Catalogue,                Nothing,        NotYet, 200, "A series' chapters"),
    ("GET",    "/api/manga/{id}/ratings",     Catalogue,                Nothing,        NotYet, 200, "A series' ratings"),
    ("POST",   "/api/manga/{id}/ratings",     Scope("write:comment"),   Object,         NotYet, 200, "Rate a series"),
    ("DELETE", "/api/manga/{id}/ratings",     Scope("write:comment"),   Nothing,        NotYet, 204, "Take my rating back"),
    ("GET",    "/api/manga/{id}/ratings/me",  SignedIn,                 Nothing,        NotYet, 200, "My rating"),
    ("GET",    "/api/manga/{id}/ratings/average", Catalogue,            Nothing,        NotYet, 200, "The mean of all ratings"),
    ("GET",    "/api/manga/{id}/comments",    Catalogue,                Nothing,        NotYet, 200, "A series' comments"),
    ("POST",   "/api/manga/{id}/comments",    Scope("write:comment"),   Object,         NotYet, 201, "Comment on a series"),
    ("GET",    "/api/manga/comments/me",      SignedIn,                 Nothing,        NotYet, 200, "My comments"),
    ("GET",    "/api/manga/comments/{id}",    Catalogue,                Nothing,        NotYet, 200, "A comment"),
    ("PUT",    "/api/manga/comments/{id}",    Scope("write:comment"),   Object,         NotYet, 200, "Change my comment"),
    ("DELETE", "/api/manga/comments/{id}",    Scope("write:comment"),   Nothing,        NotYet, 204, "Remove my comment"),
    ("GET",    "/api/genres",                 Catalogue,                Nothing,        NotYet, 200, "All genres"),
    ("POST",   "/api/genres",                 Scope("write:genre"),     Object,         NotYet, 201, "Add a genre"),
    ("GET",    "/api/genres/{id}/mangas",     Catalogue,                Nothing,        NotYet, 200, "The series of a genre"),
    ("GET",    "/api/notifications",          SignedIn,                 Nothing,        NotYet, 200, "My notices"),
    ("GET",    "/api/notifications/unread",   SignedIn,                 Nothing,        NotYet, 200, "My unread notices"),
    ("PUT",    "/api/notifications/{id}/read", SignedIn,                OptionalObject, NotYet, 204, "Mark a notice as read"),
    ("PUT",    "/api/notifications/read-all", SignedIn,                 OptionalObject, NotYet, 204, "Mark all notices as read"),
    ("GET",    "/api/me",                     SignedIn,                 Nothing,        NotYet, 200, "My account"),
    ("PATCH",  "/api/me",                     Scope("write:profile"),   Object,         NotYet, 200, "Change my account"),
    ("DELETE", "/api/me",                     Scope("write:profile"),   Object,         NotYet, 204, "Remove my account"),
    ("GET",    "/api/me/export",              SignedIn,                 Nothing,        NotYet, 200, "Everything about me"),
    ("POST",   "/api/me/password",            Scope("write:profile"),   Object,         NotYet, 204, "Change my password"),
    ("GET",    "/api/me/keys",                SignedIn,                 Nothing,        NotYet, 200, "My API keys"),
    ("POST",   "/api/me/keys",                Scope("write:profile"),   Object,         NotYet, 201, "Make an API key"),
    ("DELETE", "/api/me/keys",                Scope("write:profile"),   Nothing,        NotYet, 204, "Revoke all my API keys"),
    ("DELETE", "/api/me/keys/{id}",           Scope("write:profile"),   Nothing,        NotYet, 204, "Revoke an API key"),
    ("GET",    "/api/events",                 SignedIn,                 Nothing,        NotYet, 200, "Server-sent events"),
    ("POST",   "/api/ws-ticket",              SignedIn,                 OptionalObject, NotYet, 200, "A ticket for /ws"),
    ("POST",   "/api/udp-ticket",             SignedIn,                 OptionalObject, NotYet, 200, "A ticket for UDP notices"),
];

/// Every route, in the table's order.
pub(crate) fn all() -> impl Iterator<Item = Route> {
    ROWS.iter().map(|&(method, path, access, takes, call, status, summary)| Route {
        method,
        path,
        access,
        takes,
        call,
        status,
        summary,
    })
}

/// A path with its methods.
pub(crate) struct Place {
    segments: Vec<Segment>,
    methods: Vec<Route>,
    /// For 405 and OPTIONS.
    pub(crate) allow: String,
}

enum Segment {
    Literal(&'static str),
    Parameter,
}

static PLACES: LazyLock<Vec<Place>> = LazyLock::new(|| {
    let mut places: Vec<(&str, Place)> = Vec::new();
    for route in all() {
        let known = places.iter().position(|(path, _)| *path == route.path);
        let at = known.unwrap_or_else(|| {
            let segment = |text: &'static str| match text.starts_with('{') {
                true => Segment::Parameter,
                false => Segment::Literal(text),
            };
            let segments = route.path[1..].split('/').map(segment).collect();
            places.push((route.path, Place { segments, methods: Vec::new(), allow: String::new() }));
            places.len() - 1
        });
        places[at].1.methods.push(route);
    }
    let mut places: Vec<Place> = places.into_iter().map(|(_, place)| place).collect();
    for place in &mut places {
        let mut allow: Vec<&str> = place.methods.iter().map(|route| route.method).collect();
        if allow.contains(&"GET") {
            allow.push("HEAD");
        }
        allow.push("OPTIONS");
        place.allow = allow.join(", ");
    }
    // Where a literal and a parameter both fit, the literal is meant: `search` is not a slug.
    places.sort_by_key(|place| place.segments.iter().filter(|segment| matches!(segment, Segment::Parameter)).count());
    places
});

impl Place {
    /// The route of a method; HEAD is served as GET.
    pub(crate) fn route(&self, method: &str) -> Option<&Route> {
        let method = if method == "HEAD" { "GET" } else { method };
        self.methods.iter().find(|route| route.method == method)
    }

    /// The parameter, if the path fits.
    fn fits<'p>(&self, path: &[&'p str]) -> Option<&'p str> {
        if path.len() != self.segments.len() {
            return None;
        }
        let mut parameter = "";
        for (segment, text) in self.segments.iter().zip(path) {
            match segment {
                Segment::Literal(literal) if literal == text => {}
                Segment::Parameter if !text.is_empty() => parameter = text,
                _ => return None,
            }
        }
        Some(parameter)
    }
}

/// Finds a path and its (still escaped) parameter. One trailing slash is accepted; `/api/v1` is `/api`.
pub(crate) fn find(path: &str) -> Option<(&'static Place, &str)> {
    const SEGMENTS_MAX: usize = 6;
    let path = path.strip_prefix('/')?;
    let path = path.strip_suffix('/').unwrap_or(path);
    let mut segments = [""; SEGMENTS_MAX];
    let mut count = 0;
    for (at, segment) in path.split('/').enumerate() {
        if at == 1 && segments[0] == "api" && segment == "v1" {
            continue;
        }
        *segments.get_mut(count)? = segment;
        count += 1;
    }
    let segments = &segments[..count];
    PLACES.iter().find_map(|place| place.fits(segments).map(|parameter| (place, parameter)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(method: &str, path: &str) -> Option<Call> {
        find(path)?.0.route(method).map(|route| route.call)
    }

    #[test]
    fn slashes_versions_and_parameters_are_understood() {
        assert_eq!(call("GET", "/api/manga"), Some(Call::MangaList));
        assert_eq!(call("GET", "/api/v1/manga/"), Some(Call::MangaList));
        assert_eq!(call("GET", "/api/manga/one-piece"), Some(Call::Manga));
        assert_eq!(find("/api/v1/progress/17/").map(|(_, parameter)| parameter), Some("17"));
        assert_eq!(call("HEAD", "/api/manga/7"), Some(Call::Manga));
        for nowhere in
            ["", "/", "api/manga", "/api/manga//", "/api/v1/v1/manga", "/api", "/a/b/c/d/e/f/g/h", "/v1/auth/login"]
        {
            assert!(find(nowhere).is_none(), "{nowhere}");
        }
    }

    #[test]
    fn reserved_words_are_not_slugs() {
        assert_eq!(call("GET", "/api/manga/search"), Some(Call::NotYet));
        assert_eq!(call("GET", "/api/manga/comments/me"), Some(Call::NotYet));
    }

    #[test]
    fn no_route_is_listed_twice() {
        let mut seen: Vec<_> = all().map(|route| (route.path, route.method)).collect();
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }
}
