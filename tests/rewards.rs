//! Rewards, labels and the built-in world as a user meets them.

use serde_json::json;

#[test]
fn rewards_are_linked_into_the_command() {
    let names = collimate::reward::names();
    for name in ["command", "length", "repetition"] {
        assert!(names.contains(&name), "{names:?}");
        assert!(!collimate::reward::read(&json!({ "type": name, "n": 3, "x": 1 })).is_ok(), "{name} takes anything");
    }
}
