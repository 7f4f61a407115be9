//! Makes and checks the book; see scripts/docs.sh.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Arg, Command, value_parser};
use collimate_docs::equations::Equations;
use collimate_docs::{generate, math, root, site};

fn main() -> Result<()> {
    let path =
        || Arg::new("site").required(true).value_parser(value_parser!(PathBuf)).help("The folder of the built site");
    let arguments = Command::new("collimate-docs")
        .about("Makes the made parts of the book and of rustdoc; or finishes, or checks, the built site")
        .arg(
            Arg::new("katex")
                .long("katex")
                .value_parser(value_parser!(PathBuf))
                .help("The mdbook-katex to make rustdoc's equations with; without it they stay as they are"),
        )
        .subcommand(Command::new("finish").about("Makes the equations of a built site what browsers draw").arg(path()))
        .subcommand(Command::new("check").about("Checks links, anchors and, in a browser, each page").arg(path()))
        .get_matches();
    let site = |m: &clap::ArgMatches| m.get_one::<PathBuf>("site").cloned().context("a site");
    match arguments.subcommand() {
        Some(("finish", m)) => site::finish(&site(m)?),
        Some((_, m)) => check(&site(m)?),
        None => make(arguments.get_one::<PathBuf>("katex").cloned()),
    }
}

fn make(katex: Option<PathBuf>) -> Result<()> {
    let root = root();
    let write = |path: &std::path::Path, text: &str| -> Result<()> {
        let whole = root.join(path);
        if fs::read_to_string(&whole).is_ok_and(|old| old == text) {
            return Ok(());
        }
        println!("{}", path.display());
        fs::create_dir_all(whole.parent().context("a folder")?)?;
        fs::write(&whole, text).with_context(|| whole.display().to_string())
    };
    let outputs = generate::outputs(&root)?;
    for (path, text) in &outputs {
        write(path, text)?;
    }
    for page in generate::pages(&root)? {
        if page.starts_with("docs/src/methods") && !outputs.contains_key(&page) {
            fs::remove_file(root.join(&page))?;
        }
    }
    if let Some(katex) = katex {
        let equations = Equations::read(&root)?;
        let numbers = equations.numbers();
        let tex: Vec<_> = equations.equation.iter().map(|e| e.tex.as_str()).collect();
        let maths = math::render(&katex, &root.join("docs/macros.txt"), &tex)?;
        for (e, math) in equations.equation.iter().zip(maths) {
            write(&e.fragment(), &e.in_rustdoc(&numbers[e.id.as_str()], equations.page(e), &math))?;
        }
    }
    Ok(())
}

fn check(folder: &std::path::Path) -> Result<()> {
    let (links, mut faults) = site::links(folder)?;
    let (looks, drawn, seen) = site::look(folder)?;
    faults.extend(seen);
    if !faults.is_empty() {
        bail!("{}\n{} faults", faults.join("\n"), faults.len());
    }
    println!("{links} links lead somewhere; {looks} looks at pages, {drawn} equations drawn, no fault");
    Ok(())
}
