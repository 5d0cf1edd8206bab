//! Which paths there are, which methods each takes, and what they do: all of it, in one table. The
//! test beside it holds `docs/openapi.yaml` against the table in both directions.

use http::Method;

/// Where the API begins.
pub(super) const ROOT: &str = "/api/v1/";

/// What stands in a path for what differs from request to request.
const PLACE: &str = "{id}";

/// Something that can be asked of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    Status,
    Upstreams,
    Repositories,
    Images,
    Image,
    DeleteImage,
    Why,
    Pins,
    Pin,
    Unpin,
    Removals,
    Jobs,
    StartJob,
    Job,
    CancelJob,
    Export,
    Import,
    Reload,
    OpenApi,
}

/// A path below [`ROOT`], and what its methods do.
pub(super) struct Path {
    pub(super) path: &'static str,
    pub(super) methods: &'static [(Method, Operation)],
}

pub(super) const PATHS: &[Path] = &[
    Path {
        path: "status",
        methods: &[(Method::GET, Operation::Status)],
    },
    Path {
        path: "upstreams",
        methods: &[(Method::GET, Operation::Upstreams)],
    },
    Path {
        path: "repositories",
        methods: &[(Method::GET, Operation::Repositories)],
    },
    Path {
        path: "images",
        methods: &[(Method::GET, Operation::Images)],
    },
    Path {
        path: "image",
        methods: &[
            (Method::GET, Operation::Image),
            (Method::DELETE, Operation::DeleteImage),
        ],
    },
    Path {
        path: "why",
        methods: &[(Method::GET, Operation::Why)],
    },
    Path {
        path: "pins",
        methods: &[
            (Method::GET, Operation::Pins),
            (Method::POST, Operation::Pin),
            (Method::DELETE, Operation::Unpin),
        ],
    },
    Path {
        path: "removals",
        methods: &[(Method::GET, Operation::Removals)],
    },
    Path {
        path: "jobs",
        methods: &[
            (Method::GET, Operation::Jobs),
            (Method::POST, Operation::StartJob),
        ],
    },
    Path {
        path: "jobs/{id}",
        methods: &[
            (Method::GET, Operation::Job),
            (Method::DELETE, Operation::CancelJob),
        ],
    },
    Path {
        path: "export",
        methods: &[(Method::POST, Operation::Export)],
    },
    Path {
        path: "import",
        methods: &[(Method::POST, Operation::Import)],
    },
    Path {
        path: "reload",
        methods: &[(Method::POST, Operation::Reload)],
    },
    Path {
        path: "openapi.yaml",
        methods: &[(Method::GET, Operation::OpenApi)],
    },
];

impl Operation {
    /// The parameters that its query may have.
    pub(super) fn parameters(self) -> &'static [&'static str] {
        match self {
            Self::Repositories => &["upstream", "after", "limit"],
            Self::Images => &["upstream", "repository", "after", "limit"],
            Self::Image | Self::DeleteImage | Self::Why => &["name"],
            Self::Unpin => &["pin"],
            Self::Removals => &["limit"],
            Self::Import => &["as"],
            Self::Status
            | Self::Upstreams
            | Self::Pins
            | Self::Pin
            | Self::Jobs
            | Self::StartJob
            | Self::Job
            | Self::CancelJob
            | Self::Export
            | Self::Reload
            | Self::OpenApi => &[],
        }
    }

    /// Whether it takes a body: a document, or an archive.
    pub(super) fn takes_body(self) -> bool {
        matches!(
            self,
            Self::Pin | Self::StartJob | Self::Export | Self::Import
        )
    }
}

impl Path {
    /// The path that a request names, below [`ROOT`], and what stands in its place.
    pub(super) fn find(path: &str) -> Option<(&'static Self, Option<&str>)> {
        PATHS.iter().find_map(|candidate| {
            let place = match candidate.path.strip_suffix(PLACE) {
                Some(start) => {
                    let place = path.strip_prefix(start)?;
                    (!place.is_empty() && !place.contains('/')).then_some(Some(place))?
                }
                None => (candidate.path == path).then_some(None)?,
            };
            Some((candidate, place))
        })
    }

    /// What a method does here.
    pub(super) fn operation(&self, method: &Method) -> Option<Operation> {
        let method = if *method == Method::HEAD {
            &Method::GET
        } else {
            method
        };
        let mut methods = self.methods.iter();
        methods
            .find(|(of, _)| of == method)
            .map(|(_, operation)| *operation)
    }

    /// The methods that it takes, for people and for `Allow`.
    pub(super) fn allowed(&self) -> String {
        let methods = self.methods.iter().map(|(method, _)| method.as_str());
        let all: Vec<_> = methods
            .flat_map(|method| match method {
                "GET" => &["GET", "HEAD"][..],
                "POST" => &["POST"],
                "DELETE" => &["DELETE"],
                _ => &[],
            })
            .copied()
            .collect();
        all.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::super::{OPENAPI, limits};
    use super::*;

    /// Each operation as the description tells it: method, path, and the names of its parameters.
    fn described() -> BTreeSet<(String, String, BTreeSet<String>)> {
        let description: Value = serde_saphyr::from_str(OPENAPI).unwrap();
        let name = |parameter: &Value| {
            let reference = parameter["$ref"]
                .as_str()
                .and_then(|it| it.strip_prefix('#'));
            let parameter = reference.map_or(Some(parameter), |it| description.pointer(it));
            let parameter = parameter.unwrap();
            (parameter["in"] == "query").then(|| parameter["name"].as_str().unwrap().to_owned())
        };
        let mut all = BTreeSet::new();
        for (path, item) in description["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                if method == "parameters" {
                    continue;
                }
                let parameters = operation["parameters"].as_array().into_iter().flatten();
                let parameters = parameters.filter_map(name).collect();
                all.insert((method.to_ascii_uppercase(), path.clone(), parameters));
            }
        }
        all
    }

    #[test]
    fn what_is_routed_is_what_is_described() {
        let routed = PATHS.iter().flat_map(|path| {
            path.methods.iter().map(|(method, operation)| {
                let parameters = operation.parameters().iter().map(ToString::to_string);
                (
                    method.to_string(),
                    format!("/{}", path.path),
                    parameters.collect(),
                )
            })
        });
        let routed: BTreeSet<_> = routed.collect();
        assert_eq!(routed, described());
    }

    #[test]
    fn limits_and_the_need_for_a_body_are_described() {
        let description: Value = serde_saphyr::from_str(OPENAPI).unwrap();
        let limit = &description["components"]["parameters"]["limit"]["schema"];
        assert_eq!(limit["maximum"], limits::PAGE_ENTRIES_MAX);
        assert_eq!(limit["default"], limits::PAGE_ENTRIES);
        let warm = &description["components"]["schemas"]["WarmRequest"]["properties"];
        assert_eq!(warm["images"]["maxItems"], limits::WARM_IMAGES_MAX);
        assert_eq!(warm["platforms"]["maxItems"], limits::WARM_PLATFORMS_MAX);
        for path in PATHS {
            for (method, operation) in path.methods {
                let method = method.as_str().to_ascii_lowercase();
                let operation_described = &description["paths"][format!("/{}", path.path)][method];
                let takes = operation_described["requestBody"].is_object();
                assert_eq!(takes, operation.takes_body(), "{operation:?}");
            }
        }
    }

    #[test]
    fn paths_are_found_whole() {
        let found = |path| Path::find(path).map(|(found, place)| (found.path, place));
        assert_eq!(found("jobs"), Some(("jobs", None)));
        assert_eq!(found("jobs/7"), Some(("jobs/{id}", Some("7"))));
        for path in ["", "job", "jobs/", "jobs/7/8", "jobs/{id}/", "status/1"] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
