//! TeX to MathML, by the preprocessor that the book is built with.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

const BETWEEN: &str = "\n\n@@@@\n\n";

/// The MathML of each of some displayed equations.
///
/// # Errors
/// A preprocessor that isn't there, or that says something else.
pub fn render(katex: &Path, macros: &Path, tex: &[&str]) -> Result<Vec<String>> {
    let content = tex.iter().map(|t| format!("$${}$$", t.trim())).collect::<Vec<_>>().join(BETWEEN);
    let folder = tempfile::tempdir()?;
    std::fs::copy(macros, folder.path().join("macros.txt"))?;
    let chapter = json!({"name": "e", "content": content, "number": null, "sub_items": [], "path": "e.md", "source_path": "e.md", "parent_names": []});
    let config = json!({
        "book": {"title": "e", "language": "en", "src": "src", "authors": []},
        "preprocessor": {"katex": {"output": "mathml", "macros": "macros.txt", "no-css": true}}
    });
    let book = json!({"items": [{"Chapter": chapter}]});
    let context = json!({"root": folder.path(), "config": config, "renderer": "html", "mdbook_version": "0.5.3"});
    let mut child = Command::new(katex)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| katex.display().to_string())?;
    let input = serde_json::to_vec(&json!([context, book]))?;
    child.stdin.take().context("its input")?.write_all(&input)?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{}: {}", katex.display(), output.status);
    }
    let said: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let content = said["items"][0]["Chapter"]["content"].as_str().context("a chapter")?;
    let all: Vec<_> = content.split(BETWEEN).map(finish).collect();
    if all.len() != tex.len() || all.iter().any(|m| !m.contains("<math")) {
        bail!("{}: {} equations went in, {} came out", katex.display(), tex.len(), all.len());
    }
    Ok(all)
}

/// MathML as browsers draw it: letters of the script and double-struck alphabets as characters, since MathML Core knows
/// no other `mathvariant` than normal, and without the copy of the TeX.
pub fn finish(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once("<annotation") {
        out += before;
        rest = after.split_once("</annotation>").map_or("", |(_, behind)| behind);
    }
    let html = out + rest;
    let mut out = String::new();
    let mut rest = html.as_str();
    while let Some((before, after)) = rest.split_once(" mathvariant=\"") {
        out += before;
        let (variant, after) = after.split_once('"').unwrap_or((after, ""));
        let letter = after.strip_prefix('>').and_then(|a| a.split_once('<')).map_or("", |(l, _)| l);
        match (variant, letter.chars().next().filter(|_| letter.chars().count() == 1).and_then(|c| styled(variant, c)))
        {
            (_, Some(drawn)) => {
                out.push('>');
                out.push(drawn);
                rest = &after[1 + letter.len()..];
            }
            ("normal", _) => {
                out += " mathvariant=\"normal\"";
                rest = after;
            }
            _ => rest = after,
        }
    }
    // A function's name stands apart from its argument, as in TeX, unless that is in parentheses.
    (out + rest)
        .replace("\u{2061}</mo><m", "\u{2061}</mo><mspace width=\"0.1667em\"/><m")
        .replace("<mspace width=\"0.1667em\"/><mo ", "<mo ")
}

fn styled(variant: &str, c: char) -> Option<char> {
    let block = |base: u32| c.is_ascii_uppercase().then(|| char::from_u32(base + c as u32 - 'A' as u32)).flatten();
    match (variant, c) {
        // Those that Unicode has elsewhere.
        ("script", 'B') => Some('ℬ'),
        ("script", 'E') => Some('ℰ'),
        ("script", 'L') => Some('ℒ'),
        ("script", 'R') => Some('ℛ'),
        ("script", _) => block(0x1D49C),
        ("double-struck", 'R') => Some('ℝ'),
        ("double-struck", 'P') => Some('ℙ'),
        ("double-struck", '1') => Some('𝟙'),
        ("double-struck", _) => block(0x1D538),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_characters_and_the_source_is_gone() {
        let html = "<mi mathvariant=\"script\">A</mi><mi mathvariant=\"normal\">d</mi><mi mathvariant=\"double-struck\">E</mi>\
                    <annotation encoding=\"application/x-tex\">\\mathcal A</annotation></semantics>";
        assert_eq!(finish(html), "<mi>𝒜</mi><mi mathvariant=\"normal\">d</mi><mi>𝔼</mi></semantics>");
    }
}
