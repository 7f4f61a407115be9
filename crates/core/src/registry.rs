//! What is registered by name, and readable errors for what is not.

use serde::de::value::MapDeserializer;
use serde::de::{self, DeserializeOwned};
use serde_json::{Map, Value};

use crate::Error;

/// A serde error that keeps the list of names which a tagged trait object would have accepted.
#[derive(Debug, Default)]
struct Names(Vec<&'static str>);

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0.join(", "))
    }
}

impl std::error::Error for Names {}

impl de::Error for Names {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Self::default()
    }
    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        Self(expected.to_vec())
    }
}

/// The names under which implementations of a tagged trait are linked into this program, sorted.
///
/// `B` is the boxed trait object: `names::<Box<dyn AnyLoss>>()`.
pub fn names<B: DeserializeOwned>() -> Vec<&'static str> {
    let nobody = MapDeserializer::<_, Names>::new([("type", "")].into_iter());
    let mut names = B::deserialize(nobody).err().map(|e| e.0).unwrap_or_default();
    names.sort_unstable();
    names
}

/// Reads an item of a tagged trait from its configuration table, with an error that names the key at fault.
///
/// `kind` says what is read ("loss", "averaging" …) and opens each message.
///
/// # Errors
/// [`Error::Unknown`] for a `type` that is not registered, [`Error::Configuration`] for a missing, unknown or ill-typed
/// key.
pub fn read<B: DeserializeOwned>(kind: &'static str, value: &Value) -> Result<B, Error> {
    let Some(table) = value.as_object() else {
        return Err(Error::Configuration(format!("{kind}: expected a table with a `type`, got {value}")));
    };
    let known = names::<B>();
    let name = match table.get("type") {
        Some(Value::String(name)) => name,
        Some(other) => return Err(Error::Configuration(format!("{kind}.type: expected a name, got {other}"))),
        None => {
            return Err(Error::Configuration(format!("{kind}: `type` is missing; there are: {}", known.join(", "))));
        }
    };
    if !known.contains(&name.as_str()) {
        return Err(Error::Unknown { kind, name: name.clone(), known: known.join(", ") });
    }
    serde_json::from_value(value.clone()).map_err(|e| Error::Configuration(locate::<B>(kind, name, table, &e)))
}

/// serde loses the path inside a tagged object: the key at fault is the one whose removal changes the complaint.
fn locate<B: DeserializeOwned>(kind: &str, name: &str, table: &Map<String, Value>, e: &serde_json::Error) -> String {
    let said = e.to_string();
    let at_fault = table.keys().filter(|k| *k != "type").find(|key| {
        let mut without = table.clone();
        without.remove(*key);
        match serde_json::from_value::<B>(Value::Object(without)) {
            Ok(_) => true,
            Err(other) => other.to_string() == format!("missing field `{key}`"),
        }
    });
    match at_fault {
        Some(key) if !said.starts_with("unknown field") => format!("{kind}.{key} (of \"{name}\"): {said}"),
        _ => format!("{kind} \"{name}\": {said}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::averaging::AnyAveraging;
    use crate::loss::AnyLoss;
    use crate::optimality::AnyOptimality;
    use serde_json::json;

    #[test]
    fn names_are_those_that_are_linked() {
        let names = names::<Box<dyn AnyAveraging>>();
        assert!(names.contains(&"mean") && names.contains(&"sum"), "{names:?}");
        assert!(names.is_sorted());
    }

    #[test]
    fn an_unknown_name_lists_what_exists() {
        let said = read::<Box<dyn AnyLoss>>("loss", &json!({"type": "logistik"})).unwrap_err().to_string();
        assert!(said.starts_with("unknown loss \"logistik\"; there are: "), "{said}");
        assert!(said.contains("logistic"), "{said}");
    }

    #[test]
    fn a_fault_names_its_key() {
        let read = |v| read::<Box<dyn AnyOptimality>>("optimality", &v).unwrap_err().to_string();
        let said = read(json!({"type": "reverse_kl", "beta": "much"}));
        assert!(said.starts_with("optimality.beta (of \"reverse_kl\"): invalid type: string"), "{said}");
        let said = read(json!({"type": "reverse_kl", "beta": 1.0, "bta": 1.0}));
        assert_eq!(said, "optimality \"reverse_kl\": unknown field `bta`, expected `beta`");
        let said = read(json!({"type": "reverse_kl"}));
        assert_eq!(said, "optimality \"reverse_kl\": missing field `beta`");
        let said = read(json!({"beta": 1.0}));
        assert!(said.starts_with("optimality: `type` is missing; there are: "), "{said}");
    }
}
