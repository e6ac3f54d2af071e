//! The OpenAPI 3.1 document, made once from the route table. It says what the table says and nothing else, so it cannot
//! promise what is not served: routes of later versions are listed with their 501.

use std::sync::LazyLock;

use bytes::Bytes;
use proto::Code;
use serde_json::{Map, Value, json};

use super::routes::{self, Access, Call, Route, Takes};

/// The document.
pub(crate) static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(document().to_string()));

const ABOUT: &str = "Every path under /api is also served under /api/v1, and with a trailing slash. Errors are RFC 9457 \
    problems with a `code` that programs can rely on. An `Idempotency-Key` is not looked at yet: progress and library \
    commands are safe to repeat as they are (give `device_id` and `device_seq` to have retries recognised).";

fn document() -> Value {
    let mut paths: Map<String, Value> = Map::new();
    for route in routes::all() {
        let methods = paths.entry(route.path).or_insert_with(|| json!({}));
        methods[route.method.to_ascii_lowercase()] = operation(&route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {"title": "MangaHub", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT},
        "paths": paths,
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
            "schemas": {"Problem": problem(), "Progress": progress(), "SetProgress": set_progress()},
        },
    })
}

fn operation(route: &Route) -> Value {
    let reference = |name: &str| json!({"$ref": format!("#/components/schemas/{name}")});
    let problem =
        json!({"description": "A problem", "content": {"application/problem+json": {"schema": reference("Problem")}}});
    let mut answers = Map::new();
    if route.call == Call::NotYet {
        answers.insert("501".to_owned(), problem.clone());
    } else {
        let content = match (route.call, route.status) {
            (_, 204) => json!({}),
            (Call::Progress | Call::SetProgress, _) => json!({"application/json": {"schema": reference("Progress")}}),
            _ => json!({"application/json": {"schema": {"type": "object"}}}),
        };
        answers.insert(route.status.to_string(), json!({"description": "Done", "content": content}));
    }
    answers.insert("default".to_owned(), problem);
    let mut operation = json!({"summary": route.summary, "responses": answers});
    if let Some((_, rest)) = route.path.split_once('{') {
        let name = rest.split('}').next().unwrap_or_default();
        operation["parameters"] = json!([{"name": name, "in": "path", "required": true, "schema": {"type": "string"}}]);
    }
    if route.call == Call::SetProgress
        && let Some(parameters) = operation["parameters"].as_array_mut()
    {
        parameters.push(json!({
            "name": "Prefer", "in": "header", "required": false, "schema": {"type": "string"},
            "description": "`ack=database`: answered only when the database has the change, not the journal alone; the answer then \
                            carries `Preference-Applied: ack=database`. When that takes too long the answer is 503 with the \
                            code `not_in_database`: the change was made and is in the journal",
        }));
    }
    if route.takes != Takes::Nothing {
        let schema = if route.call == Call::SetProgress { reference("SetProgress") } else { json!({"type": "object"}) };
        operation["requestBody"] =
            json!({"required": route.takes == Takes::Object, "content": {"application/json": {"schema": schema}}});
    }
    match route.access {
        Access::Open => {}
        // An empty requirement beside another makes it optional (OpenAPI 3.1, section 4.8.10).
        Access::Catalogue => operation["security"] = json!([{}, {"bearer": []}]),
        Access::SignedIn => operation["security"] = json!([{"bearer": []}]),
        Access::Scope(scope) => operation["security"] = json!([{"bearer": [scope]}]),
    }
    operation
}

fn problem() -> Value {
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.as_str()).collect();
    let text = json!({"type": "string"});
    json!({
        "type": "object",
        "required": ["type", "title", "status", "detail", "instance", "code", "errors", "error"],
        "properties": {
            "type": text, "title": text, "status": {"type": "integer"}, "detail": text, "instance": text,
            "code": {"type": "string", "enum": codes},
            "errors": {"type": "array", "items": {"type": "object", "properties": {"field": text, "message": text}}},
            "error": {"type": "string", "description": "The same as detail"},
            "retry_after_ms": {"type": "integer"},
            "required": text, "granted": {"type": "array", "items": text},
            "stored": {"$ref": "#/components/schemas/Progress"},
            "asked_chapter": {"type": "number"}, "conflict_token": text,
        },
    })
}

fn progress() -> Value {
    json!({
        "type": "object",
        "required": ["manga_id", "chapter", "page", "status", "version", "updated_at"],
        "properties": {
            "user_id": {"type": "string", "format": "uuid"}, "manga_id": {"type": "integer"},
            "chapter": {"type": "number", "minimum": 0, "maximum": 1_000_000},
            "page": {"type": ["integer", "null"]}, "status": {"type": ["string", "null"]},
            "version": {"type": "integer"}, "generation": {"type": "integer"}, "node": {"type": "integer"},
            "updated_at": {"type": "string", "format": "date-time"}, "ahead_of_catalogue": {"type": "boolean"},
            "device_id": {"type": "string", "format": "uuid"}, "already": {"type": "boolean"},
            "offer_completed": {"type": "boolean"},
        },
    })
}

fn set_progress() -> Value {
    json!({
        "type": "object",
        "required": ["chapter"],
        "properties": {
            "chapter": {"type": "number", "minimum": 0, "maximum": 1_000_000}, "page": {"type": "integer", "minimum": 0},
            "status": {"enum": ["reading", "completed", "plan_to_read", "on_hold", "dropped", "re_reading"]},
            "force": {"type": "boolean"}, "device_id": {"type": "string", "format": "uuid"},
            "device_seq": {"type": "integer", "minimum": 1}, "conflict_token": {"type": "string"},
            "manga_id": {"description": "If given, must be the path's"},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_route() {
        let document: Value = serde_json::from_slice(&DOCUMENT).unwrap();
        for route in routes::all() {
            let operation = &document["paths"][route.path][route.method.to_ascii_lowercase()];
            assert_eq!(operation["summary"], route.summary, "{} {}", route.method, route.path);
        }
    }
}
