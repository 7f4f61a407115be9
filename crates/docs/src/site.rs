//! The built site: finished, and looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use collimate_browser::chromium;
use serde_json::Value;

use crate::math;

/// Every HTML page under a folder, relative to it; rustdoc's under `api` only where asked for.
fn pages(site: &Path, api: bool) -> Result<Vec<PathBuf>> {
    fn walk(site: &Path, folder: &Path, api: bool, all: &mut Vec<PathBuf>) -> Result<()> {
        for entry in fs::read_dir(site.join(folder)).with_context(|| site.join(folder).display().to_string())? {
            let entry = entry?;
            let path = folder.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                if path != Path::new("api") || api {
                    walk(site, &path, api, all)?;
                }
            } else if path.extension().is_some_and(|e| e == "html") {
                all.push(path);
            }
        }
        Ok(())
    }
    let mut all = Vec::new();
    walk(site, Path::new(""), api, &mut all)?;
    all.sort();
    Ok(all)
}

/// Makes the equations of the book what browsers draw.
///
/// # Errors
/// A page that can't be read or written.
pub fn finish(site: &Path) -> Result<()> {
    for page in pages(site, false)? {
        let path = site.join(page);
        let html = fs::read_to_string(&path)?;
        fs::write(&path, math::finish(&html))?;
    }
    Ok(())
}

/// The values of an attribute.
fn attributes<'a>(html: &'a str, name: &str) -> impl Iterator<Item = String> + use<'a> {
    let open = format!(" {name}=\"");
    let mut rest = html;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once(&open)?;
        let (value, after) = after.split_once('"')?;
        rest = after;
        Some(value.replace("&amp;", "&").replace("&#x27;", "'").replace("&quot;", "\""))
    })
}

/// What a percent sign and two digits stand for.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut i = 0;
    while i < bytes.len() {
        let hex = text.get(i + 1..i + 3).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (bytes[i], hex) {
            (b'%', Some(byte)) => {
                out.push(byte);
                i += 3;
            }
            (byte, _) => {
                out.push(byte);
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A link from a page, as a path from the site's root and an anchor; nothing where it leaves the site.
fn target(page: &Path, link: &str) -> Option<(PathBuf, String)> {
    if link.contains("://") || ["mailto:", "data:", "javascript:"].iter().any(|s| link.starts_with(s)) {
        return None;
    }
    let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
    let path = decoded(path.split('?').next().unwrap_or_default());
    let whole = match path.is_empty() {
        true => page.to_owned(),
        false => page.parent().unwrap_or(Path::new("")).join(path),
    };
    let mut clean = PathBuf::new();
    for part in whole.components() {
        match part {
            // Above the root there is nothing.
            Component::ParentDir if !clean.pop() => clean.push(".."),
            Component::Normal(name) => clean.push(name),
            _ => {}
        }
    }
    Some((clean, decoded(anchor)))
}

/// Links and anchors that lead nowhere, and things that would be fetched from elsewhere. Of rustdoc, which the compiler
/// checks, the links to equations alone.
///
/// # Errors
/// A page that can't be read.
pub fn links(site: &Path) -> Result<(usize, Vec<String>)> {
    let mut faults = Vec::new();
    let mut known: BTreeMap<PathBuf, Option<BTreeSet<String>>> = BTreeMap::new();
    let mut count = 0;
    for page in pages(site, true)? {
        let html = fs::read_to_string(site.join(&page))?;
        let rustdoc = page.starts_with("api");
        let all = attributes(&html, "href").chain(attributes(&html, "src").filter(|_| !rustdoc));
        for link in all.filter(|l| !rustdoc || l.contains("#eq-")) {
            let Some((mut path, anchor)) = target(&page, &link) else { continue };
            count += 1;
            if site.join(&path).is_dir() {
                path.push("index.html");
            }
            let ids = known.entry(path.clone()).or_insert_with(|| {
                let html = fs::read(site.join(&path)).ok()?;
                Some(attributes(&String::from_utf8_lossy(&html), "id").collect())
            });
            match ids {
                None => faults.push(format!("{}: {link} leads nowhere", page.display())),
                // 404.html has its links from the root.
                Some(ids) if !anchor.is_empty() && !ids.contains(&anchor) => {
                    faults.push(format!("{}: {link}: no such anchor", page.display()));
                }
                Some(_) => {}
            }
        }
        if !rustdoc {
            for tag in
                html.split('<').filter(|t| t.starts_with("script") || t.starts_with("img") || t.starts_with("link"))
            {
                let from = attributes(tag, "src").chain(attributes(tag, "href")).find(|l| l.contains("://"));
                if let Some(from) = from {
                    faults.push(format!("{}: asks for {from}", page.display()));
                }
            }
        }
    }
    Ok((count, faults))
}

/// What a page measures of itself, and tells the page around it.
const MEASURE: &str = r#"<script>
(() => {
const faults = [];
addEventListener('error', e => faults.push(String(e.message || (e.target && e.target.outerHTML))), true);
addEventListener('load', () => setTimeout(() => {
    const main = document.querySelector('main') || document.body;
    const maths = [...document.querySelectorAll('main math')].filter(m => !m.closest('details:not([open])'));
    const plots = [...document.querySelectorAll('main svg.plot')];
    const walker = document.createTreeWalker(main, NodeFilter.SHOW_TEXT);
    let raw = '';
    for (let n = walker.nextNode(); n; n = walker.nextNode())
        if (n.textContent.includes('$$') && !n.parentElement.closest('code')) raw = n.textContent;
    const wide = [...main.querySelectorAll('*')].filter(e => {
        const b = e.getBoundingClientRect();
        if (b.right <= innerWidth + 1) return false;
        for (let p = e; p && p !== main; p = p.parentElement)
            if (['auto', 'scroll', 'hidden'].includes(getComputedStyle(p).overflowX)) return false;
        return b.width > 0;
    });
    parent.postMessage({
        page: location.pathname, search: location.search, width: innerWidth,
        scroll: document.documentElement.scrollWidth, wide: wide.slice(0, 3).map(e => e.outerHTML.slice(0, 120)),
        dark: matchMedia('(prefers-color-scheme: dark)').matches, back: getComputedStyle(document.documentElement).backgroundColor,
        maths: maths.length, drawn: maths.filter(m => m.getBoundingClientRect().width > 2).length, raw,
        plots: plots.length, inked: plots.filter(p => p.getBoundingClientRect().height > 60).length,
        found: document.querySelectorAll('[id$=searchresults] li').length,
        requests: performance.getEntriesByType('resource').map(r => r.name).filter(n => !/^(file|data|blob):/.test(n)), faults,
    }, '*');
}, 400));
})();
</script>"#;

const WIDTHS: [u64; 2] = [390, 1280];

/// What each page of the book says of itself at each width.
fn measured(site: &Path, dark: bool) -> Result<Vec<Value>> {
    let browser = chromium().context("no browser: install chromium, or name one in CHROMIUM")?;
    let folder = tempfile::tempdir()?;
    // A copy without rustdoc, with the measure in each page.
    copy(site, folder.path())?;
    let pages = pages(folder.path(), false)?;
    let pages: Vec<_> =
        pages.into_iter().filter(|p| p != Path::new("404.html") && p != Path::new("toc.html")).collect();
    for page in &pages {
        let path = folder.path().join(page);
        let html = fs::read_to_string(&path)?;
        fs::write(&path, html.replacen("<head>", &format!("<head>{MEASURE}"), 1))?;
    }
    let wanted: Vec<String> =
        pages.iter().map(|p| p.display().to_string()).chain(["index.html?search=averaging".into()]).collect();
    let mut all = Vec::new();
    for some in wanted.chunks(12) {
        let frame = |(page, width): (&String, u64)| {
            format!("<iframe style=\"border:0;width:{width}px;height:900px\" src=\"{page}\"></iframe>")
        };
        let frames: String = some.iter().flat_map(|p| WIDTHS.map(|w| (p, w))).map(frame).collect();
        let options = ["--allow-file-access-from-files", "--virtual-time-budget=20000"];
        let said = collimate_browser::look(&browser, folder.path(), &frames, dark, &options)?.pages;
        if said.len() != some.len() * WIDTHS.len() {
            bail!("{} of {} pages spoke", said.len(), some.len() * WIDTHS.len());
        }
        all.extend(said);
    }
    Ok(all)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if !entry.file_type()?.is_dir() {
            fs::copy(&path, to.join(&name))?;
        } else if name != "api" {
            fs::create_dir_all(to.join(&name))?;
            copy(&path, &to.join(&name))?;
        }
    }
    Ok(())
}

/// What a browser finds wrong with the pages, and how many equations it drew.
///
/// # Errors
/// No browser, or pages that say nothing.
pub fn look(site: &Path) -> Result<(usize, usize, Vec<String>)> {
    let (mut faults, mut looks, mut drawn) = (Vec::new(), 0, 0);
    let mut backs = BTreeSet::new();
    for dark in [false, true] {
        for page in measured(site, dark)? {
            looks += 1;
            let number = |key: &str| page[key].as_u64().unwrap_or_default();
            let name = page["page"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
            let at = format!("{name} at {} px, {}", number("width"), if dark { "dark" } else { "light" });
            let mut fault = |text: String| faults.push(format!("{at}: {text}"));
            if number("scroll") > number("width") || page["wide"].as_array().is_some_and(|w| !w.is_empty()) {
                fault(format!("overflows to {} px: {}", number("scroll"), page["wide"]));
            }
            for key in ["requests", "faults"] {
                if page[key].as_array().is_none_or(|l| !l.is_empty()) {
                    fault(format!("{key}: {}", page[key]));
                }
            }
            if page["dark"] != dark {
                fault("the browser was not of that colour scheme".into());
            }
            if number("maths") != number("drawn") || number("plots") != number("inked") {
                fault(format!(
                    "{} of {} equations and {} of {} plots are drawn",
                    number("drawn"),
                    number("maths"),
                    number("inked"),
                    number("plots")
                ));
            }
            if page["raw"] != "" {
                fault(format!("TeX is left: {}", page["raw"]));
            }
            if page["search"] != "" && number("found") == 0 {
                fault("the search finds nothing".into());
            }
            drawn += number("drawn") as usize;
            backs.insert((dark, page["back"].as_str().unwrap_or_default().to_owned()));
        }
    }
    if backs.len() != 2 || backs.iter().map(|b| &b.1).collect::<BTreeSet<_>>().len() != 2 {
        faults.push(format!("light and dark have the backgrounds {backs:?}"));
    }
    Ok((looks, drawn, faults))
}
