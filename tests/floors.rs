//! The house stands: a file names only what its floor may name, every file says what it is for, and nothing unwraps.
//!
//! Paths are read with `syn`: `use` trees, inline paths, visibility aside, and paths among the tokens of macros and attributes.
//! What stands under `#[cfg(test)]` may look anywhere.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path as FilePath,
};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};

/// A room and the rooms whose names it may use beside its own. Further inside wins: `store::redis` is not `store`.
struct Room {
    path: &'static [&'static str],
    imports: &'static [&'static str],
    /// Crates of which it must not know, with all whose names begin so.
    unknown: &'static [&'static str],
}

const ACTIX: &str = "actix";
const REDIS: &str = "redis";
const POOL: &str = "deadpool";

/// The floors, top to bottom. Whatever has no room of its own belongs to the roof.
const ROOMS: &[Room] = &[
    Room {
        path: &["config"],
        imports: &["doors", "core", "store::memory", "store::redis", "store", "auth", "domain", "metrics", "telemetry"],
        unknown: &[ACTIX, REDIS, POOL],
    },
    Room { path: &["doors"], imports: &["core", "auth", "domain", "metrics", "telemetry"], unknown: &[REDIS, POOL] },
    Room { path: &["core"], imports: &["store", "domain", "metrics", "telemetry"], unknown: &[ACTIX, REDIS, POOL] },
    Room {
        path: &["store", "memory"],
        imports: &["store", "domain", "metrics", "telemetry"],
        unknown: &[ACTIX, REDIS, POOL],
    },
    Room { path: &["store", "redis"], imports: &["store", "domain", "metrics", "telemetry"], unknown: &[ACTIX] },
    Room { path: &["store"], imports: &["domain", "metrics", "telemetry"], unknown: &[ACTIX, REDIS, POOL] },
    Room { path: &["auth"], imports: &["domain", "metrics", "telemetry"], unknown: &[ACTIX, REDIS, POOL] },
    Room { path: &["domain"], imports: &[], unknown: &[ACTIX, REDIS, POOL, "tokio"] },
    Room { path: &["metrics"], imports: &["domain"], unknown: &[ACTIX, REDIS, POOL] },
    Room { path: &["telemetry"], imports: &["domain"], unknown: &[ACTIX, REDIS, POOL] },
];

/// The room of an absolute path inside the crate; none is the roof.
fn room(path: &[String]) -> Option<&'static Room> {
    let fits = |room: &&Room| room.path.len() <= path.len() && room.path.iter().zip(path).all(|(a, b)| a == b);
    ROOMS.iter().filter(fits).max_by_key(|room| room.path.len())
}

/// One source file: where it stands in the crate, and what it says.
struct Source {
    file: String,
    module: Vec<String>,
    text: String,
    syntax: syn::File,
}

impl Source {
    fn new(file: &str, text: &str) -> Self {
        let mut module: Vec<String> = file.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(module.last().map(String::as_str), Some("mod" | "lib")) {
            module.pop();
        }
        let syntax = syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}"));
        Self { file: file.to_owned(), module, text: text.to_owned(), syntax }
    }
}

fn sources_of_the_crate() -> Vec<Source> {
    fn collect(directory: &FilePath, prefix: &str, sources: &mut Vec<Source>) {
        for entry in fs::read_dir(directory).expect("src is there") {
            let entry = entry.expect("src can be read");
            let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                collect(&entry.path(), &format!("{name}/"), sources);
            } else if name.ends_with(".rs") {
                sources.push(Source::new(&name, &fs::read_to_string(entry.path()).expect("sources are UTF-8")));
            }
        }
    }
    let mut sources = Vec::new();
    collect(&FilePath::new(env!("CARGO_MANIFEST_DIR")).join("src"), "", &mut sources);
    sources
}

/// Everything that is wrong with these sources, a sentence each.
fn faults(sources: &[Source]) -> Vec<String> {
    let mut modules = Modules::default();
    for source in sources {
        modules.children_of(&source.module, &source.syntax.items, false);
    }
    let mut faults = Vec::new();
    for source in sources.iter().filter(|source| !modules.is_test(&source.module)) {
        if !source.text.starts_with("//!") {
            faults.push(format!("{}: a file begins with `//!` and says what it is for", source.file));
        }
        let mut reader = Reader { source, modules: &modules, module: source.module.clone(), faults: &mut faults };
        reader.visit_file(&source.syntax);
    }
    faults.sort();
    faults.dedup();
    faults
}

/// The modules of the crate by parent, and those that only tests compile.
#[derive(Default)]
struct Modules {
    children: BTreeMap<Vec<String>, BTreeSet<String>>,
    tests: BTreeSet<Vec<String>>,
}

impl Modules {
    fn children_of(&mut self, parent: &[String], items: &[syn::Item], test: bool) {
        for item in items {
            let syn::Item::Mod(module) = item else { continue };
            let name = module.ident.to_string();
            self.children.entry(parent.to_vec()).or_default().insert(name.clone());
            let mut path = parent.to_vec();
            path.push(name);
            let test = test || is_test(&module.attrs);
            if test {
                self.tests.insert(path.clone());
            }
            if let Some((_, items)) = &module.content {
                self.children_of(&path, items, test);
            }
        }
    }

    /// Whether the module or one around it is for tests alone.
    fn is_test(&self, module: &[String]) -> bool {
        (1..=module.len()).any(|length| self.tests.contains(&module[..length]))
    }
}

/// `#[cfg(test)]`, `#[cfg(all(test, …))]`, `#[test]` and the like; a feature that has "test" in its name is none.
fn is_test(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let last = attribute.path().segments.last().map(|segment| segment.ident.to_string());
        match (last.as_deref(), &attribute.meta) {
            (Some("test"), _) => true,
            (Some("cfg"), syn::Meta::List(list)) => {
                let mut words = Vec::new();
                flatten(list.tokens.clone(), &mut words);
                words.iter().any(|word| word == "test") && !words.iter().any(|word| word == "not" || word == "any")
            }
            _ => false,
        }
    })
}

struct Reader<'a> {
    source: &'a Source,
    modules: &'a Modules,
    /// Where we are, inline modules included.
    module: Vec<String>,
    faults: &'a mut Vec<String>,
}

impl Reader<'_> {
    fn fault(&mut self, what: String) {
        self.faults.push(format!("{}: {what}", self.source.file));
    }

    /// Judges one path as it is written.
    fn judge(&mut self, leading: bool, segments: &[String]) {
        let Some(first) = segments.first() else { return };
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "unwrap") {
            self.fault(format!("`{}` outside tests", segments.join("::")));
        }
        let binary = self.source.file == "main.rs";
        let target: Vec<String> = match first.as_str() {
            _ if leading => return self.judge_crate(first),
            "crate" => segments[1..].to_vec(),
            // The binary sees the library as a crate.
            "rollcall" if binary => segments[1..].to_vec(),
            "self" if segments.len() > 1 => [&self.module[..], &segments[1..]].concat(),
            "super" => {
                let ups = segments.iter().take_while(|segment| *segment == "super").count();
                let depth = self.module.len().saturating_sub(ups);
                [&self.module[..depth], &segments[ups..]].concat()
            }
            _ if self.modules.children.get(&self.module).is_some_and(|children| children.contains(first)) => {
                [&self.module[..], segments].concat()
            }
            _ => return self.judge_crate(first),
        };
        let Some(own) = room(&self.module) else { return };
        let written = segments.join("::");
        match room(&target) {
            None => self.fault(format!("`{written}` is under the roof, and `{}` is below it", own.path.join("::"))),
            Some(other) if other.path == own.path || own.imports.contains(&&*other.path.join("::")) => {}
            Some(other) => {
                self.fault(format!("`{written}`: `{}` may not use `{}`", own.path.join("::"), other.path.join("::")));
            }
        }
    }

    /// Judges the name of another crate, if it is one.
    fn judge_crate(&mut self, name: &str) {
        let Some(own) = room(&self.module) else { return };
        if own.unknown.iter().any(|unknown| name == *unknown || name.starts_with(&format!("{unknown}_"))) {
            self.fault(format!("`{name}`: `{}` must not know that crate", own.path.join("::")));
        }
    }

    fn judge_tree(&mut self, leading: bool, before: &[String], tree: &syn::UseTree) {
        let with = |name: &syn::Ident| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.judge_tree(leading, &with(&path.ident), &path.tree),
            syn::UseTree::Name(name) if name.ident == "self" => self.judge(leading, before),
            syn::UseTree::Name(name) => self.judge(leading, &with(&name.ident)),
            syn::UseTree::Rename(rename) => self.judge(leading, &with(&rename.ident)),
            syn::UseTree::Glob(_) => self.judge(leading, before),
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.judge_tree(leading, before, tree);
                }
            }
        }
    }

    /// Paths among tokens: runs of names with `::` between them, and texts such as serde's `with = "crate::…"`.
    fn judge_tokens(&mut self, tokens: TokenStream) {
        let mut words = Vec::new();
        flatten(tokens, &mut words);
        let mut at = 0;
        while at < words.len() {
            let begin = at;
            let leading = words[at] == "::";
            at += usize::from(leading);
            let mut segments = Vec::new();
            while at < words.len() && is_name(&words[at]) {
                segments.push(words[at].clone());
                // `$crate::x` arrives as `$`, `crate`, `::`, `x`, which reads as `crate::x`.
                if words.get(at + 1).is_some_and(|word| word == "::")
                    && words.get(at + 2).is_some_and(|word| is_name(word))
                {
                    at += 2;
                } else {
                    at += 1;
                    break;
                }
            }
            let after_dot = begin > 0 && words[begin - 1] == ".";
            if after_dot && segments == ["unwrap"] {
                self.fault("`unwrap` outside tests".to_owned());
            } else if segments.len() > 1 && !after_dot {
                self.judge(leading, &segments);
            }
            at = at.max(begin + 1);
        }
        for word in &words {
            if let Some(path) = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'))
                && ["crate::", "super::", "self::"].iter().any(|start| path.starts_with(start))
            {
                self.judge(false, &path.split("::").map(str::to_owned).collect::<Vec<_>>());
            }
        }
    }
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// All tokens in order, groups opened, with `::` as one word.
fn flatten(tokens: TokenStream, words: &mut Vec<String>) {
    let mut colon = false;
    for token in tokens {
        let mut second = false;
        match token {
            TokenTree::Group(group) => {
                words.push("(".to_owned());
                flatten(group.stream(), words);
                words.push(")".to_owned());
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' && colon => {
                words.pop();
                words.push("::".to_owned());
            }
            TokenTree::Punct(punct) => {
                second = punct.as_char() == ':' && punct.spacing() == proc_macro2::Spacing::Joint;
                words.push(punct.as_char().to_string());
            }
            other => words.push(other.to_string()),
        }
        colon = second;
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            syn::Item::Struct(item) => &item.attrs,
            syn::Item::Const(item) => &item.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !is_test(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.judge_tree(item.leading_colon.is_some(), &[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<_> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A lone name was brought in by a `use`, or is a name of this place.
        if segments.len() > 1 {
            self.judge(path.leading_colon.is_some(), &segments);
        }
        visit::visit_path(self, path);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if call.method == "unwrap" {
            self.fault("`unwrap` outside tests".to_owned());
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.judge_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }

    fn visit_attribute(&mut self, attribute: &'ast syn::Attribute) {
        if let syn::Meta::List(list) = &attribute.meta {
            self.judge_tokens(list.tokens.clone());
        }
        visit::visit_attribute(self, attribute);
    }

    // `pub(crate)` and `pub(super)` say who may look in, not what is used.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}
}

#[test]
fn every_file_names_only_what_its_floor_may_name() {
    let sources = sources_of_the_crate();
    assert!(sources.len() > 5, "these are not all sources: {}", sources.len());
    let faults = faults(&sources);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The faults of one file in a small house.
fn faults_of(file: &str, text: &str) -> Vec<String> {
    let house = [
        (
            "lib.rs",
            "//! House.\npub mod app; pub mod config; pub mod core; pub mod doors; pub mod domain; pub mod store; pub mod auth;",
        ),
        ("store/mod.rs", "//! Store.\npub mod memory; pub mod redis;"),
        ("domain/mod.rs", "//! Domain.\npub mod name;"),
    ];
    let mut sources: Vec<_> =
        house.iter().filter(|(name, _)| *name != file).map(|(name, text)| Source::new(name, text)).collect();
    sources.push(Source::new(file, &format!("//! A room.\n{text}")));
    faults(&sources)
}

#[test]
fn a_file_that_looks_upstairs_is_seen_however_it_writes_it() {
    let upstairs = [
        ("domain/name.rs", "use crate::core::Session;"),
        ("domain/name.rs", "use crate::{domain::version, store::{self, Store as S}};"),
        ("domain/name.rs", "use super::super::core::*;"),
        ("domain/name.rs", "use crate::*;"),
        ("domain/name.rs", "use crate::app::Application;"),
        ("domain/name.rs", "fn f() { let x = crate::core::session::begin(); }"),
        ("domain/name.rs", "fn f(x: Vec<Option<crate::auth::Keys>>) {}"),
        ("domain/name.rs", "fn f() { println!(\"{}\", crate::core::NAME); }"),
        ("domain/name.rs", "macro_rules! m { () => { $crate::store::Row } }"),
        ("domain/name.rs", "#[derive(Serialize)] struct A { #[serde(with = \"crate::store::codec\")] b: u8 }"),
        ("domain/name.rs", "mod inner { use super::super::super::core::Session; }"),
        ("domain/name.rs", "use tokio::time::Instant;"),
        ("domain/name.rs", "fn f(x: ::redis::Value) {}"),
        ("domain/name.rs", "fn f() { m!(actix_web::get) }"),
        ("domain/name.rs", "impl crate::store::Store for A {}"),
        ("core/mod.rs", "use crate::doors::ws;"),
        ("core/mod.rs", "use crate::store::redis::Redis;"),
        ("core/mod.rs", "use crate::auth::Keys;"),
        ("core/mod.rs", "use actix_web::rt;"),
        ("core/mod.rs", "use deadpool_redis::Pool;"),
        ("doors/ws/mod.rs", "use crate::store::Store;"),
        ("doors/mod.rs", "use crate::config::Settings;"),
        ("doors/mod.rs", "fn f(x: redis::RedisError) {}"),
        ("store/mod.rs", "pub mod redis; pub use redis::RedisStore;"),
        ("store/mod.rs", "pub mod redis; fn f() -> self::redis::RedisStore { loop {} }"),
        ("store/memory.rs", "use super::redis::keys;"),
        ("auth.rs", "use crate::store::Store;"),
    ];
    for (file, text) in upstairs {
        assert!(!faults_of(file, text).is_empty(), "{file}: {text}");
    }
}

#[test]
fn what_is_allowed_is_not_called_a_fault() {
    let allowed = [
        (
            "domain/name.rs",
            "use super::version::Epoch; use std::{fmt, sync::Arc}; pub(crate) fn f() { crate::domain::x(); }",
        ),
        (
            "domain/name.rs",
            "#[cfg(test)] mod tests { use crate::store::memory::Memory; fn f() { tokio::spawn(g()).unwrap(); } }",
        ),
        ("domain/name.rs", "fn f() { x.redis(); tokio(); m!(a.unwrap_or(1), redis); }"),
        ("core/mod.rs", "use crate::{domain::name::UserName, store::Store}; use tokio::sync::mpsc;"),
        ("core/session.rs", "use super::Core; fn f(x: super::mirror::Mirror) {}"),
        ("store/redis/codec.rs", "use crate::store::Row; use redis::Value; use super::keys;"),
        ("store/redis/mod.rs", "mod codec; use codec::read; use ::redis::aio::ConnectionManager;"),
        ("doors/rest.rs", "use actix_web::web; use crate::core::Service; use crate::auth::Keys;"),
        ("config.rs", "use crate::doors::settings::Server; use crate::store::redis::settings::Redis;"),
        ("app.rs", "use crate::store::redis::RedisStore; use crate::config::Settings; use redis::Client;"),
        ("main.rs", "use rollcall::app::Application; fn main() {}"),
    ];
    for (file, text) in allowed {
        assert_eq!(faults_of(file, text), Vec::<String>::new(), "{file}: {text}");
    }
}

#[test]
fn unwraps_and_files_without_a_word_are_faults() {
    for text in ["fn f() { x.unwrap(); }", "fn f() { x.map(Option::unwrap); }", "fn f() { assert!(x.unwrap()); }"] {
        assert_eq!(faults_of("auth.rs", text).len(), 1, "{text}");
    }
    assert_eq!(faults(&[Source::new("auth.rs", "use std::fmt;")]).len(), 1);
    // The file of a test module needs neither.
    let owner = Source::new("auth/mod.rs", "//! Keys.\n#[cfg(test)] mod tests;");
    assert!(faults(&[owner, Source::new("auth/tests.rs", "fn f() { x.unwrap(); }")]).is_empty());
}
