//! `openapi.yaml` as the tests read it.

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

/// One method of one path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Operation {
    pub path: String,
    pub method: String,
    pub is_public: bool,
}

/// The document, as JSON.
pub fn document() -> Value {
    let parsed = YamlLoader::load_from_str(include_str!("../../../openapi.yaml")).unwrap();
    to_json(&parsed[0])
}

fn to_json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Hash(members) => {
            members.iter().map(|(name, value)| (to_json(name).as_str().unwrap().to_owned(), to_json(value))).collect()
        }
        Yaml::Array(items) => items.iter().map(to_json).collect(),
        Yaml::String(text) | Yaml::Real(text) => text.as_str().into(),
        Yaml::Integer(number) => (*number).into(),
        Yaml::Boolean(flag) => (*flag).into(),
        Yaml::Null => Value::Null,
        other => panic!("{other:?} is not JSON"),
    }
}

/// Every operation, in the order of path and method.
pub fn operations() -> Vec<Operation> {
    let document = document();
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let is_public = operation["security"].as_array().is_some_and(Vec::is_empty);
            operations.push(Operation { path: path.clone(), method: method.to_uppercase(), is_public });
        }
    }
    operations.sort();
    operations
}
