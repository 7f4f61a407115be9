//! Models and data sets by their names on the Hugging Face Hub, with the feature `hub`; a clear refusal without it.

use std::path::{Path, PathBuf};

use crate::Error;

/// What a name on the Hub stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A checkpoint: its JSON, templates and safetensors are fetched.
    Model,
    /// A data set: its data files are fetched, and those that say which they are.
    Dataset,
}

/// `path` itself where it exists, or does not look like `owner/name`; else the folder that the Hub's repository of this
/// name was downloaded to.
///
/// # Errors
/// Without the feature `hub`: a name that is no file. With it: a download that fails.
pub fn locate(path: &Path, kind: Kind) -> Result<PathBuf, Error> {
    let name = path.to_string_lossy();
    if !path.exists() && name.contains("://") {
        return Err(Error::file(Path::new(&shown(&name)), "a URL; download it, and give the file or folder"));
    }
    if path.exists() || !is_name(&name) {
        return Ok(path.to_owned());
    }
    #[cfg(feature = "hub")]
    return Hub::from_env().fetch(&name, kind, "main");
    #[cfg(not(feature = "hub"))]
    return Err(Error::file(path, {
        let option = if kind == Kind::Dataset { "--repo-type dataset " } else { "" };
        format!(
            "no such file or folder; if it is a name on the Hugging Face Hub, this build cannot download it (it was made \
             without the feature `hub`): fetch it with `hf download {option}{name} --local-dir FOLDER` and give the folder"
        )
    }));
}

/// A URL without what may be secret in it: user and password, and all after the path.
fn shown(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return url.to_owned() };
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let host = host.rsplit('@').next().unwrap_or_default();
    format!("{scheme}://{host}{path}")
}

/// `owner/name`, of the characters that the Hub allows, and not a file by its ending.
pub fn is_name(name: &str) -> bool {
    let part = |p: &str| {
        !p.is_empty() && !p.starts_with('.') && p.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
    };
    let ending = [".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".gz", ".zst", ".txt"]
        .iter()
        .any(|e| name.ends_with(e));
    !ending && name.split_once('/').is_some_and(|(owner, repository)| part(owner) && part(repository))
}

#[cfg(feature = "hub")]
pub use download::Hub;

#[cfg(feature = "hub")]
mod download {
    use std::io::{Read, Write};
    use std::path::{Component, Path, PathBuf};

    use serde_json::Value;

    use super::{Kind, shown};
    use crate::Error;
    use crate::folder::{is_about_data, is_data};

    /// Where to download from, and to.
    #[derive(Clone, Debug)]
    pub struct Hub {
        /// `https://huggingface.co`, or a mirror.
        pub endpoint: String,
        /// Sent as a bearer token, for gated and private repositories.
        pub token: Option<String>,
        /// Repositories go to folders in it, one per revision.
        pub folder: PathBuf,
    }

    impl Hub {
        /// From the variables that Hugging Face's own tools read: `HF_ENDPOINT`, `HF_TOKEN`, and `HF_HOME` or
        /// `~/.cache/huggingface`, in which the folder `collimate` is used.
        pub fn from_env() -> Self {
            let var = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
            let home = var("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
                let home = var("HOME").or_else(|| var("USERPROFILE")).unwrap_or_else(|| ".".to_owned());
                Path::new(&home).join(".cache/huggingface")
            });
            Self {
                endpoint: var("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned()),
                token: var("HF_TOKEN"),
                folder: home.join("collimate"),
            }
        }

        /// Downloads what is needed of the repository `name` at `revision`, and returns its folder. Files that are
        /// there already are not fetched again.
        ///
        /// # Errors
        /// No network, no such repository, no access to it, a download that breaks off, a disk that is full.
        pub fn fetch(&self, name: &str, kind: Kind, revision: &str) -> Result<PathBuf, Error> {
            let failure = |message: String| Error::file(Path::new(name), message);
            let (api, files, plural) = match kind {
                Kind::Model => ("api/models", String::new(), "models"),
                Kind::Dataset => ("api/datasets", "datasets/".to_owned(), "datasets"),
            };
            let address = format!("{}/{api}/{name}/revision/{revision}", self.endpoint);
            let url = shown(&address);
            let mut text = String::new();
            self.get(&address)
                .map_err(&failure)?
                .read_to_string(&mut text)
                .map_err(|e| failure(format!("{url}: {e}")))?;
            let info: Value = serde_json::from_str(&text).map_err(|e| failure(format!("{url}: not JSON: {e}")))?;
            let commit = info["sha"].as_str().ok_or_else(|| failure(format!("{url}: names no `sha`")))?;
            let listed = info["siblings"].as_array().ok_or_else(|| failure(format!("{url}: lists no `siblings`")))?;
            let folder = self.folder.join(format!("{plural}--{}", name.replace('/', "--"))).join(commit);
            let mut wanted = 0;
            for file in listed.iter().filter_map(|s| s["rfilename"].as_str()).filter(|f| wants(kind, f)) {
                // A name from the network must not lead out of the folder.
                if !Path::new(file).components().all(|c| matches!(c, Component::Normal(_))) {
                    return Err(failure(format!("lists a file called {file:?}")));
                }
                wanted += usize::from(kind == Kind::Model || is_data(Path::new(file)));
                let path = folder.join(file);
                if !path.exists() {
                    let url = format!("{}/{files}{name}/resolve/{commit}/{file}", self.endpoint);
                    self.save(&url, &path, &failure)?;
                }
            }
            if wanted == 0 {
                return Err(failure(format!("no file that could be used among the {} of {url}", listed.len())));
            }
            Ok(folder)
        }

        fn get(&self, url: &str) -> Result<impl Read + use<>, String> {
            let mut request = ureq::get(url);
            if let Some(token) = &self.token {
                request = request.header("Authorization", format!("Bearer {token}"));
            }
            let asked = request.call();
            let url = shown(url);
            match asked {
                Ok(response) => Ok(response.into_body().into_reader()),
                Err(ureq::Error::StatusCode(code @ (401 | 403))) => {
                    Err(format!("{url}: {code}: no access, or no such repository; HF_TOKEN holds the token"))
                }
                Err(ureq::Error::StatusCode(404)) => Err(format!("{url}: 404: no such repository or revision")),
                Err(e) => Err(format!("{url}: {e}; is there a network?")),
            }
        }

        fn save(&self, url: &str, path: &Path, failure: &dyn Fn(String) -> Error) -> Result<(), Error> {
            let folder = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder).map_err(Error::io(folder, "create"))?;
            let mut reader = self.get(url).map_err(failure)?;
            // Written beside and renamed: a file that is there is whole.
            let mut beside = tempfile::NamedTempFile::new_in(folder).map_err(Error::io(folder, "write in"))?;
            std::io::copy(&mut reader, &mut beside).map_err(|e| failure(format!("{}: {e}", shown(url))))?;
            beside.flush().map_err(Error::io(path, "write"))?;
            beside.persist(path).map_err(|e| Error::io(path, "rename to")(e.error))?;
            Ok(())
        }
    }

    fn wants(kind: Kind, file: &str) -> bool {
        match kind {
            Kind::Dataset => is_data(Path::new(file)) || is_about_data(Path::new(file)),
            Kind::Model => {
                let top = !file.contains('/');
                top && [".json", ".jinja", ".safetensors"].iter().any(|e| file.ends_with(e))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_files() {
        for name in ["trl-lib/ultrafeedback_binarized", "HuggingFaceTB/SmolLM2-135M", "Qwen/Qwen2.5-0.5B"] {
            assert!(is_name(name), "{name}");
        }
        for file in
            ["pairs.jsonl", "data/pairs.jsonl", "../data/x", "./x", "/a/b", "a/b/c", "a/", "a/b.parquet", "a b/c"]
        {
            assert!(!is_name(file), "{file}");
        }
        let secret = "https://me:hf_secret@huggingface.co/datasets/o/n/a.jsonl?token=hf_secret#hf_secret";
        assert_eq!(shown(secret), "https://huggingface.co/datasets/o/n/a.jsonl");
        let said = locate(Path::new(secret), Kind::Dataset).unwrap_err().to_string();
        assert!(said.contains("a URL") && !said.contains("secret"), "{said}");
        let here = env!("CARGO_MANIFEST_DIR");
        assert_eq!(locate(Path::new(here), Kind::Model).unwrap(), Path::new(here));
        assert_eq!(locate(Path::new("none.jsonl"), Kind::Dataset).unwrap(), Path::new("none.jsonl"));
    }

    #[cfg(not(feature = "hub"))]
    #[test]
    fn without_the_feature_the_refusal_says_what_to_do() {
        let error = locate(Path::new("owner/name"), Kind::Dataset).unwrap_err().to_string();
        for part in ["owner/name", "feature `hub`", "hf download --repo-type dataset owner/name"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }

    /// A server of five requests on this machine stands for the Hub.
    #[cfg(feature = "hub")]
    #[test]
    fn a_data_set_is_downloaded_once() {
        use std::io::{BufRead, BufReader, Write};

        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for stream in listener.incoming().take(5) {
                let mut stream = stream.unwrap();
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
                let path = lines.next().unwrap().split(' ').nth(1).unwrap().to_owned();
                let token =
                    lines.take_while(|l| !l.is_empty()).any(|l| l.eq_ignore_ascii_case("authorization: bearer t"));
                let (status, body) = match path.as_str() {
                    "/api/datasets/o/n/revision/main" => (
                        "200 OK",
                        r#"{"sha": "abc", "siblings": [{"rfilename": "README.md"}, {"rfilename": "logo.png"}, {"rfilename": "data/train.jsonl"}]}"#,
                    ),
                    "/datasets/o/n/resolve/abc/data/train.jsonl" => ("200 OK", "{}\n"),
                    "/datasets/o/n/resolve/abc/README.md" => ("200 OK", "# n\n"),
                    _ => ("404 Not Found", ""),
                };
                write!(
                    stream,
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                    body.len()
                )
                .unwrap();
                asked.push((path, token));
            }
            asked
        });
        let folder = tempfile::tempdir().unwrap();
        let hub = Hub { endpoint, token: Some("t".into()), folder: folder.path().to_owned() };
        let first = hub.fetch("o/n", Kind::Dataset, "main").unwrap();
        assert_eq!(std::fs::read_to_string(first.join("data/train.jsonl")).unwrap(), "{}\n");
        assert_eq!(std::fs::read_to_string(first.join("README.md")).unwrap(), "# n\n");
        assert!(!first.join("logo.png").exists());
        assert_eq!(hub.fetch("o/n", Kind::Dataset, "main").unwrap(), first);
        let error = hub.fetch("o/none", Kind::Model, "main").unwrap_err().to_string();
        assert!(error.contains("o/none") && error.contains("404"), "{error}");
        let asked = asked.join().unwrap();
        assert_eq!(asked.len(), 5, "the listing twice, each file once, and the refusal");
        assert!(asked.iter().all(|(_, token)| *token));
    }
}
