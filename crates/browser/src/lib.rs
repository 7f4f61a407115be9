//! Pages that measure themselves, opened in a headless browser: Debian's chromium, or that of `CHROMIUM`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The browser, if there is one.
pub fn chromium() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("CHROMIUM") {
        return Some(named.into());
    }
    let folders = std::env::var_os("PATH")?;
    let names = ["chromium", "chromium-browser", "google-chrome"];
    std::env::split_paths(&folders).flat_map(|f| names.map(|n| f.join(n))).find(|p| p.is_file())
}

/// What pages say, and what the browser's log does.
#[derive(Debug)]
pub struct Said {
    /// What each frame posted, in the order in which they did.
    pub pages: Vec<Value>,
    /// The log.
    pub console: String,
}

/// Opens a page of `frames` (the HTML of `iframe`s) in `folder`, under a light or a dark colour scheme, and collects what
/// the frames post to it. `more` are further options of the browser.
///
/// # Errors
/// A browser that doesn't start, a folder that can't be written to, or frames that say nothing.
pub fn look(browser: &Path, folder: &Path, frames: &str, dark: bool, more: &[&str]) -> io::Result<Said> {
    let outer = format!(
        "<!doctype html><meta charset=\"utf-8\"><meta name=\"color-scheme\" content=\"light dark\"><pre id=\"said\"></pre>\
         <script>const all = []; addEventListener('message', e => {{ all.push(e.data); \
         document.getElementById('said').textContent = JSON.stringify(all); }})</script>{frames}"
    );
    let file = folder.join("outer.html");
    std::fs::write(&file, outer)?;
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--enable-logging=stderr",
        "--host-resolver-rules=MAP * ~NOTFOUND",
        "--window-size=1400,900",
        "--dump-dom",
    ]);
    command.args(more).arg(format!("--user-data-dir={}", folder.join("profile").display()));
    if dark {
        command.arg("--force-dark-mode");
    }
    let output = command.arg(format!("file://{}", file.display())).output()?;
    let console = String::from_utf8_lossy(&output.stderr).into_owned();
    let dom = String::from_utf8_lossy(&output.stdout);
    let said = dom.split("<pre id=\"said\">").nth(1).and_then(|s| s.split("</pre>").next()).unwrap_or_default();
    let said = said.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let pages =
        serde_json::from_str(&said).map_err(|e| io::Error::other(format!("the page said {said:?}: {e}; {console}")))?;
    Ok(Said { pages, console })
}
