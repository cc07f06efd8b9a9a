//! The endpoints of commands in the local API, and the requests to them.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// The first part of the path of every endpoint.
pub(crate) const BASE: &str = "/api/v1";

/// An HTTP method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
    Put,
    Patch,
    Delete,
}

/// The method and path of a command. The arguments of a GET are in the path and the query. With all other
/// methods, arguments that are not in the path are a JSON object in the body: secrets must not be in a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ApiEndpoint {
    pub(crate) method: Method,
    /// The path after [`BASE`], for example `/peers/{peer}`. A name in braces is the name of an argument.
    pub(crate) path: &'static str,
}

/// A request to a running node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ApiRequest {
    pub(crate) method: Method,
    /// The path, with the query if there is one.
    pub(crate) target: String,
    /// The body; `None` for a GET.
    pub(crate) body: Option<Value>,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
        }
    }
}

impl ApiEndpoint {
    pub(crate) const fn get(path: &'static str) -> Self {
        Self { method: Method::Get, path }
    }

    pub(crate) const fn post(path: &'static str) -> Self {
        Self { method: Method::Post, path }
    }

    pub(crate) const fn put(path: &'static str) -> Self {
        Self { method: Method::Put, path }
    }

    pub(crate) const fn patch(path: &'static str) -> Self {
        Self { method: Method::Patch, path }
    }

    pub(crate) const fn delete(path: &'static str) -> Self {
        Self { method: Method::Delete, path }
    }

    /// Returns the names of the arguments in the path.
    pub(crate) fn path_arguments(self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }

    /// Returns the request with these arguments, a JSON object.
    pub(crate) fn request(self, arguments: Value) -> ApiRequest {
        let mut arguments = match arguments {
            Value::Object(arguments) => arguments,
            _ => Map::new(),
        };
        let mut target = BASE.to_owned();
        for part in self.path.split('/').skip(1) {
            target.push('/');
            match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) => {
                    let value = arguments.remove(name).unwrap_or_default();
                    push_encoded(&mut target, &text(&value));
                }
                None => target.push_str(part),
            }
        }
        arguments.retain(|_, value| !value.is_null());
        if self.method != Method::Get {
            return ApiRequest { method: self.method, target, body: Some(arguments.into()) };
        }
        for (index, (name, value)) in arguments.iter().enumerate() {
            target.push(if index == 0 { '?' } else { '&' });
            push_encoded(&mut target, name);
            target.push('=');
            push_encoded(&mut target, &text(value));
        }
        ApiRequest { method: self.method, target, body: None }
    }
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Appends a text. All characters are percent-encoded, except the unreserved ones of RFC 3986.
fn push_encoded(target: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                target.push(char::from(byte));
            }
            _ => drop(write!(target, "%{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_get_has_its_arguments_in_path_and_query() {
        let endpoint = ApiEndpoint::get("/peers/{peer}/files");
        let request =
            endpoint.request(json!({"peer": "bob smith/é", "skip": 3, "text": "a&b", "to": null}));
        assert_eq!(request.target, "/api/v1/peers/bob%20smith%2F%C3%A9/files?skip=3&text=a%26b");
        assert_eq!(request.body, None);
    }

    #[test]
    fn other_methods_have_theirs_in_the_body() {
        let endpoint = ApiEndpoint::post("/peers/{peer}/messages");
        assert_eq!(endpoint.path_arguments().collect::<Vec<_>>(), ["peer"]);
        let request = endpoint.request(json!({"peer": "ab", "text": "hi", "to": null}));
        assert_eq!(request.target, "/api/v1/peers/ab/messages");
        assert_eq!(request.body, Some(json!({"text": "hi"})));
    }
}
