//! The settings, put together from the embedded manual, a file and the environment, and checked as a whole.

mod check;
mod development;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    path::{Path, PathBuf},
};

use config::{Config, ConfigError, FileFormat, Map, Source as _, Value, ValueKind};
use serde::Deserialize;

use crate::{
    auth,
    domain::settings::{Limits, Namespace, Presence},
    doors, store,
};

/// Every setting with its meaning and its default. It is read for the defaults and for the names that there are.
pub const MANUAL: &str = include_str!("config.default.toml");

const PREFIX: &str = "ROLLCALL__";

/// The settings that are lists, which the environment separates by commas.
const LISTS: [&str; 5] =
    ["server.allowed_origins", "server.trusted_proxies", "auth.public_keys", "auth.audience", "auth.api_keys"];

/// Every setting there is.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The listeners.
    pub server: doors::settings::Server,
    /// Where presence is kept.
    pub redis: store::Settings,
    /// Which credentials count.
    pub auth: auth::Settings,
    /// Times of presence.
    pub presence: Presence,
    /// What one caller may use up.
    pub limits: Limits,
    /// What holds for the channels of a pattern; the first that matches counts.
    #[serde(default)]
    pub namespace: Vec<Namespace>,
}

/// What the service runs for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// For others: nobody comes in without a key.
    Normal,
    /// For trying out on this machine: a secret is made up, and REST asks for no key.
    Development,
}

/// Why the settings do not do: a sentence that says which and why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Error(pub String);

/// Where settings come from, beside the manual.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// The file given by `--config`.
    pub file: Option<PathBuf>,
    /// The environment, of which only what begins with `ROLLCALL__` is looked at.
    pub environment: Vec<(OsString, OsString)>,
}

impl Sources {
    /// The sources of this process.
    pub fn of_process(file: Option<PathBuf>) -> Self {
        Self { file, environment: std::env::vars_os().collect() }
    }
}

impl Settings {
    /// Puts the settings together and checks them.
    ///
    /// # Errors
    /// A sentence about a setting that is unknown, that has no use, or that cannot work with another.
    pub fn load(sources: &Sources, mode: Mode) -> Result<Self, Error> {
        let mut settings = Self::assemble(sources)?;
        if mode == Mode::Development {
            development::prepare(&mut settings, &sources.environment)?;
        }
        check::check(&settings)?;
        Ok(settings)
    }

    /// Refuses to serve where no key is configured by which anybody could come in.
    ///
    /// # Errors
    /// A text with the two lines that are missing, made up freshly, to be pasted.
    pub fn require_keys(&self) -> Result<(), Error> {
        check::require_keys(self)
    }

    fn assemble(sources: &Sources) -> Result<Self, Error> {
        let known = manual_names();
        let mut builder = Config::builder().add_source(config::File::from_str(MANUAL, FileFormat::Toml));
        if let Some(path) = &sources.file {
            let text = std::fs::read_to_string(path)
                .map_err(|why| Error(format!("the settings file {} cannot be read: {why}", path.display())))?;
            let file = config::File::from_str(&text, FileFormat::Toml);
            let found = file
                .collect()
                .map_err(|why| Error(format!("the settings file {} is no TOML: {why}", path.display())))?;
            check_names(&found, &known, path)?;
            builder = builder.add_source(file);
        }
        for (setting, (variable, text)) in from_environment(&sources.environment, &known)? {
            let kind = if LISTS.contains(&setting.as_str()) {
                ValueKind::Array(split_list(&text).into_iter().map(|item| Value::new(Some(&variable), item)).collect())
            } else {
                ValueKind::String(text)
            };
            builder = builder.set_override(&setting, Value::new(Some(&variable), kind)).map_err(refuse)?;
        }
        builder.build().and_then(Config::try_deserialize).map_err(refuse)
    }
}

/// Says in our words what the library has found. Values under `auth` are not repeated: one may be a key that went astray.
fn refuse(why: ConfigError) -> Error {
    let by = |origin: Option<String>| origin.map(|origin| format!(", set by {origin},")).unwrap_or_default();
    Error(match why {
        ConfigError::Type { origin, expected, key: Some(key), .. } if key.starts_with("auth.") => {
            format!("`{key}`{} must be {expected}", by(origin))
        }
        ConfigError::Type { origin, unexpected, expected, key: Some(key) } => {
            format!("`{key}`{} is the {unexpected}, but must be {expected}", by(origin))
        }
        ConfigError::At { error, origin, key: Some(key) } => format!("`{key}`{} cannot be used: {error}", by(origin)),
        ConfigError::NotFound(key) => format!("`{key}` is missing"),
        other => format!("the settings cannot be used: {other}"),
    })
}

/// The names in the manual, as `section.name`; those of a namespace are not among them, since they stand in tables of their own.
fn manual_names() -> Vec<String> {
    let mut section = "";
    let mut names = Vec::new();
    for line in MANUAL.lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if let Some(header) = line.strip_prefix('[') {
            section = header.strip_suffix(']').filter(|name| !name.starts_with('[')).unwrap_or_default();
        } else if let Some((name, _)) = line.split_once(" = ")
            && !section.is_empty()
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
        {
            names.push(format!("{section}.{name}"));
        }
    }
    names
}

fn check_names(found: &Map<String, Value>, known: &[String], path: &Path) -> Result<(), Error> {
    let unknown = |name: &str| {
        Error(format!("there is no setting `{name}`, which the settings file {} gives a value", path.display()))
    };
    for (section, value) in found.iter().filter(|(section, _)| *section != "namespace") {
        let ValueKind::Table(settings) = &value.kind else { return Err(unknown(section)) };
        for (name, value) in settings {
            let name = format!("{section}.{name}");
            if !known.contains(&name) {
                return Err(unknown(&name));
            }
            // Said here and not by the library, which would repeat what may be a key.
            if LISTS.contains(&name.as_str()) && !matches!(value.kind, ValueKind::Array(_)) {
                return Err(Error(format!("`{name}` must be a list in the settings file {}", path.display())));
            }
        }
        if !known.iter().any(|name| name.starts_with(&format!("{section}."))) {
            return Err(unknown(section));
        }
    }
    Ok(())
}

/// Setting → variable and value, with the files read that `…_FILE` names.
fn from_environment(
    environment: &[(OsString, OsString)],
    known: &[String],
) -> Result<BTreeMap<String, (String, String)>, Error> {
    let mut found = BTreeMap::new();
    for (variable, value) in environment {
        let Some(variable) = variable.to_str().filter(|variable| variable.starts_with(PREFIX)) else { continue };
        let name = variable[PREFIX.len()..].to_ascii_lowercase().replace("__", ".");
        // Known names first: `redis.ca_file` ends like a file that holds `redis.ca`.
        let (name, in_file) = match name.strip_suffix("_file") {
            Some(stem) if !known.contains(&name) => (stem.to_owned(), true),
            _ => (name, false),
        };
        if name == "namespace" || name.starts_with("namespace.") {
            return Err(Error(format!("namespaces are set in a file (--config), not by {variable}")));
        }
        if !known.contains(&name) {
            return Err(Error(format!("there is no setting `{name}`, which {variable} gives a value")));
        }
        if value.is_empty() {
            continue;
        }
        let value = value.to_str().ok_or_else(|| Error(format!("the value of {variable} is no UTF-8")))?;
        let value = if in_file {
            let text = std::fs::read_to_string(value)
                .map_err(|why| Error(format!("the file {value}, named by {variable}, cannot be read: {why}")))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        } else {
            value.to_owned()
        };
        if let Some((other, _)) = found.insert(name.clone(), (variable.to_owned(), value)) {
            return Err(Error(format!("`{name}` is given a value twice, by {other} and by {variable}")));
        }
    }
    Ok(found)
}

/// Splits at commas, but not within the parentheses of a scope's pattern.
fn split_list(text: &str) -> Vec<String> {
    let mut depth = 0_usize;
    let separates = |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    text.split(separates).map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests;
