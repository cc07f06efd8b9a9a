//! The OpenAPI document of the API, made from the declarations of the commands and of the other endpoints.

use std::collections::BTreeMap;

use axum::Json;
use serde_json::Value;
use utoipa::openapi::path::{
    HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder,
};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, Object, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, Info, OpenApi, OpenApiBuilder, Ref, RefOr, Required, ResponseBuilder,
};
use utoipa::{PartialSchema as _, ToSchema as _};

use super::plain::{self, PlainEndpoint};
use super::problem::{self, Problem};
use crate::commands::endpoint::{ApiEndpoint, BASE, Method};
use crate::commands::{COMMANDS, CommandSpec};

/// The name of the security scheme.
const BEARER: &str = "bearer";

/// The statuses of errors, with the cases that have them.
const ERRORS: [(&str, &str); 13] = [
    ("400", "The request can't be read"),
    ("401", "The token is missing or wrong"),
    (
        "403",
        "The token may only read, the request comes from a page of another origin, or only the network's owner may do this",
    ),
    ("404", "What the request names does not exist"),
    ("405", "This method is not for this path"),
    ("408", "The body did not arrive in time"),
    ("409", "The name could be several things, or the node is not connected to that one"),
    ("413", "The request, or a text in it, is too large"),
    ("415", "The body is not JSON"),
    ("421", "`Host` is not the address of the API"),
    ("422", "The command failed"),
    ("429", "There are too many requests, or a queue is full"),
    (UNAVAILABLE, "The node has not finished its start, or is stopping"),
];

/// The status of a node that is not ready.
const UNAVAILABLE: &str = "503";

/// The statuses of errors that every endpoint may answer with.
const COMMON_ERRORS: [&str; 5] = ["400", "403", "405", "421", "429"];

/// Answers with the document.
pub(super) async fn document() -> Json<Value> {
    let mut document = serde_json::to_value(build()).unwrap_or_default();
    unlink_descriptions(&mut document);
    Json(document)
}

/// Removes the links of rustdoc from all descriptions. They come from the documentation of types.
fn unlink_descriptions(part: &mut Value) {
    match part {
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::String(text) if matches!(name.as_str(), "description" | "summary") => {
                        *text = without_links(text);
                    }
                    value => unlink_descriptions(value),
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(unlink_descriptions),
        _ => {}
    }
}

/// Returns a text with the words of each link of rustdoc in place of the link: `Node` for `[Node]` with
/// backticks inside the brackets, and `the node` for `[the node](Node)`. Other brackets, as in `[ADDR]`, stay.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, link)) = rest.split_once('[') {
        plain.push_str(before);
        let Some((words, after)) = link.split_once(']') else {
            plain.push('[');
            rest = link;
            continue;
        };
        let target = after.strip_prefix('(').and_then(|target| target.split_once(')'));
        rest = match target {
            Some((_, after)) => {
                plain.push_str(words);
                after
            }
            None if words.starts_with('`') => {
                plain.push_str(words);
                after
            }
            None => {
                plain.push('[');
                link
            }
        };
    }
    plain.push_str(rest);
    plain
}

/// Returns the document.
fn build() -> OpenApi {
    let mut paths = PathsBuilder::new();
    let mut components = BTreeMap::new();
    components.insert(Problem::name().into_owned(), Problem::schema());
    for (spec, endpoint) in COMMANDS.iter().filter_map(|spec| Some((spec, spec.endpoint?))) {
        let schemas = (spec.schemas)();
        components.extend(schemas.components);
        let operation = operation(spec, endpoint, &schemas.arguments, &schemas.outcome);
        let method = match endpoint.method {
            Method::Get => HttpMethod::Get,
            Method::Post => HttpMethod::Post,
            Method::Put => HttpMethod::Put,
            Method::Patch => HttpMethod::Patch,
            Method::Delete => HttpMethod::Delete,
        };
        let item = utoipa::openapi::PathItem::new(method, operation);
        paths = paths.path(format!("{BASE}{}", endpoint.path), item);
    }
    for endpoint in &plain::ENDPOINTS {
        let item = utoipa::openapi::PathItem::new(HttpMethod::Get, plain_operation(endpoint));
        paths = paths.path(endpoint.path, item);
    }
    let info = Info::builder()
        .title("peerkit")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The local API of a running peerkit node"))
        .build();
    let scheme = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    let components = ComponentsBuilder::new()
        .schemas_from_iter(components)
        .security_scheme(BEARER, SecurityScheme::Http(scheme))
        .build();
    OpenApiBuilder::new()
        .info(info)
        .paths(paths.build())
        .components(Some(components))
        .security(Some([SecurityRequirement::new::<_, [&str; 0], &str>(BEARER, [])]))
        .build()
}

fn operation(
    spec: &CommandSpec,
    endpoint: ApiEndpoint,
    arguments: &RefOr<Schema>,
    outcome: &str,
) -> Operation {
    let about = spec.clap().get_about().map(ToString::to_string).unwrap_or_default();
    let more = Some(spec.more()).filter(|more| !more.is_empty());
    let mut operation = OperationBuilder::new()
        .operation_id(Some(spec.name.replace('-', "_")))
        .summary(Some(about))
        .description(more);
    let object = object(arguments);
    let in_path: Vec<&str> = endpoint.path_arguments().collect();
    let mut body = ObjectBuilder::from(Object::new());
    let mut has_body = false;
    let mut body_is_required = false;
    for (name, schema) in &object.properties {
        let is_required = object.required.contains(name);
        let is_in_path = in_path.contains(&name.as_str());
        if is_in_path || endpoint.method == Method::Get {
            let place = if is_in_path { ParameterIn::Path } else { ParameterIn::Query };
            let required = if is_required || is_in_path { Required::True } else { Required::False };
            let parameter = ParameterBuilder::new()
                .name(name)
                .parameter_in(place)
                .required(required)
                .schema(Some(schema.clone()));
            operation = operation.parameter(parameter.build());
            continue;
        }
        has_body = true;
        body = body.property(name, schema.clone());
        if is_required {
            body_is_required = true;
            body = body.required(name);
        }
    }
    if has_body {
        let content = ContentBuilder::new().schema(Some(Schema::Object(body.build()))).build();
        let required = if body_is_required { Required::True } else { Required::False };
        let body = RequestBodyBuilder::new().required(Some(required));
        operation = operation.request_body(Some(body.content("application/json", content).build()));
    }
    let content = ContentBuilder::new().schema(Some(Ref::from_schema_name(outcome))).build();
    let done = ResponseBuilder::new().description("Done").content("application/json", content);
    let operation = operation.response("200", done.build());
    with_errors(operation, |status| status != UNAVAILABLE).build()
}

fn plain_operation(endpoint: &PlainEndpoint) -> Operation {
    let more = Some(endpoint.description).filter(|more| !more.is_empty());
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let schema = match endpoint.media_type {
        // The schema of one event.
        "text/event-stream" => ["event", "data"]
            .into_iter()
            .fold(ObjectBuilder::new().schema_type(Type::Object), |event, field| {
                event.property(field, text()).required(field)
            }),
        // Without properties it stands for any object.
        "application/json" => ObjectBuilder::new().schema_type(Type::Object),
        _ => text(),
    };
    let schema = Schema::Object(schema.build());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    let done = ResponseBuilder::new().description("Done").content(endpoint.media_type, content);
    let mut operation = OperationBuilder::new()
        .operation_id(Some(endpoint.operation_id))
        .summary(Some(endpoint.summary))
        .description(more)
        .response("200", done.build());
    if !endpoint.needs_token {
        // Replaces the requirement of the whole document.
        operation = operation.securities(Some([]));
    }
    let has_error = |status: &str| match status {
        "401" => endpoint.needs_token,
        UNAVAILABLE => endpoint.may_be_unavailable,
        _ => COMMON_ERRORS.contains(&status),
    };
    with_errors(operation, has_error).build()
}

/// Adds a response for each of [`ERRORS`] whose status `has` selects.
fn with_errors(operation: OperationBuilder, has: impl Fn(&str) -> bool) -> OperationBuilder {
    let errors = ERRORS.iter().filter(|(status, _)| has(status));
    errors.fold(operation, |operation, (status, when)| {
        let content =
            ContentBuilder::new().schema(Some(Ref::from_schema_name(Problem::name()))).build();
        let response =
            ResponseBuilder::new().description(*when).content(problem::MEDIA_TYPE, content);
        operation.response(*status, response.build())
    })
}

/// Returns the object schema of a command's arguments.
fn object(arguments: &RefOr<Schema>) -> Object {
    match arguments {
        RefOr::T(Schema::Object(object)) => object.clone(),
        // A struct without fields, or one that is not declared as a plain struct.
        _ => Object::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_of_rustdoc_become_their_words() {
        for (text, plain) in [
            ("See [`Node`] and [`of`](Self::of).", "See `Node` and `of`."),
            (
                "The [download\nfolder](Node::folder), `join [ADDR...]`",
                "The download\nfolder, `join [ADDR...]`",
            ),
            ("[a] [b](c", "[a] [b](c"),
            ("an open [", "an open ["),
        ] {
            assert_eq!(without_links(text), plain);
        }
    }

    /// Collects the descriptions in a part of the document.
    fn descriptions(part: &Value, found: &mut Vec<String>) {
        match part {
            Value::Object(fields) => {
                for (name, value) in fields {
                    match value {
                        Value::String(text) if name == "description" || name == "summary" => {
                            found.push(text.clone());
                        }
                        value => descriptions(value, found),
                    }
                }
            }
            Value::Array(values) => values.iter().for_each(|value| descriptions(value, found)),
            _ => {}
        }
    }

    #[tokio::test]
    async fn no_description_has_a_link_of_rustdoc() {
        let Json(document) = document().await;
        let mut found = Vec::new();
        descriptions(&document, &mut found);
        assert!(found.len() > 200, "{}", found.len());
        for text in found {
            // Outside of code, a single word in brackets is a link to a type.
            let prose: String = text.split('`').step_by(2).collect();
            let mut links = prose.split('[').skip(1).filter_map(|link| link.split_once(']'));
            let has_type = links.any(|(words, _)| !words.contains(char::is_whitespace));
            assert!(!text.contains("[`") && !prose.contains("](") && !has_type, "{text}");
        }
    }
}
