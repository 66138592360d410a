//! The API's description, an OpenAPI 3.1 document. Made from the operations that the router is made from and from the
//! types that are sent, so that it can't say anything else than is served.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::ToSchema;
use weft_api::ApiError;

/// What one operation takes and gives.
pub(super) struct Description {
    /// Of the path, in lower case, such as `get`.
    pub(super) method: &'static str,
    /// With parameters in braces, such as `/v1/pods/{name}`.
    pub(super) path: &'static str,
    /// One name in the whole document, for programs that are generated from it.
    pub(super) id: &'static str,
    /// One sentence.
    pub(super) summary: &'static str,
    /// What it can be asked with.
    pub(super) parameters: Vec<Parameter>,
    /// The type of its body.
    pub(super) body: Option<Schema>,
    /// The HTTP status of its success, and the type of the answer.
    pub(super) success: (u16, Schema),
    /// The statuses that it can fail with, beside those of every operation.
    pub(super) failures: &'static [u16],
}

/// One parameter.
pub(super) struct Parameter {
    pub(super) name: &'static str,
    /// `query` or `path`.
    pub(super) place: &'static str,
    pub(super) meaning: &'static str,
    pub(super) schema: Value,
}

/// A type that is sent, and where its schema and those that it names come from.
pub(super) struct Schema {
    reference: Value,
    components: BTreeMap<String, Value>,
}

impl Schema {
    /// Of a type of the API.
    pub(super) fn of<T: ToSchema>() -> Self {
        let mut found = vec![(T::name().into_owned(), T::schema())];
        T::schemas(&mut found);
        let components = found.into_iter().filter_map(|(name, schema)| {
            // A schema is plain data, which always has a JSON form.
            Some((name, serde_json::to_value(schema).ok()?))
        });
        Self {
            reference: json!({ "$ref": format!("#/components/schemas/{}", T::name()) }),
            components: components.collect(),
        }
    }

    /// Any JSON object.
    pub(super) fn object() -> Self {
        Self { reference: json!({ "type": "object" }), components: BTreeMap::new() }
    }
}

/// Statuses that every operation can fail with: a request that can't be read, that comes too slowly, that is too long, a
/// daemon that fails, one that is not ready.
const FAILURES: [u16; 5] = [400, 408, 413, 500, 503];

/// The document.
pub(super) fn document(operations: &[Description]) -> Value {
    let error = Schema::of::<ApiError>();
    let mut components = error.components;
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    for operation in operations {
        let schemas = operation.body.iter().chain([&operation.success.1]);
        components.extend(schemas.flat_map(|schema| schema.components.clone()));
        let said = describe(operation, &error.reference);
        paths.entry(operation.path).or_default().insert(operation.method.to_owned(), said);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "weftd's control API",
            "description": "HTTP and JSON over the daemon's UNIX socket, one request a connection. Within version 1 a field \
                keeps its name, meaning and unit; fields may be added.",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "http://weft", "description": "Any host name: curl --unix-socket /run/weft/weftd.sock" }],
        "paths": paths,
        "components": { "schemas": components },
    })
}

fn describe(operation: &Description, error: &Value) -> Value {
    let content = |schema: &Value| json!({ "application/json": { "schema": schema } });
    let parameters = operation.parameters.iter().map(|parameter| {
        json!({
            "name": parameter.name,
            "in": parameter.place,
            "description": parameter.meaning,
            "required": parameter.place == "path",
            "schema": parameter.schema,
        })
    });
    let parameters: Vec<_> = parameters.collect();
    let (status, answer) = &operation.success;
    let mut responses = Map::new();
    responses.insert(
        status.to_string(),
        json!({ "description": "Success", "content": content(&answer.reference) }),
    );
    for failure in FAILURES.iter().chain(operation.failures) {
        let said = json!({ "description": meaning(*failure), "content": content(error) });
        responses.insert(failure.to_string(), said);
    }
    let mut said = json!({
        "operationId": operation.id,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": responses,
    });
    if let Some(body) = &operation.body {
        said["requestBody"] = json!({ "required": true, "content": content(&body.reference) });
    }
    said
}

const fn meaning(status: u16) -> &'static str {
    match status {
        400 => "The request can't be read.",
        404 => "There is no such thing.",
        408 => "The request came too slowly.",
        409 => "The name, the address or the device is taken.",
        413 => "The body is too long.",
        422 => "What is asked for is not valid here.",
        503 => "The daemon is not ready for this; try again.",
        _ => "The daemon failed.",
    }
}
