//! Parameters behind the `?`: all of them known, each at most once.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use serde::{Deserialize, de::DeserializeOwned};

use super::{cursor, listing, path};
use crate::{
    domain::name::{ChannelName, NameError},
    doors::problem::Problem,
};

/// The parameters of a request.
pub struct Query<T>(pub T);

/// A route without parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

impl<T: DeserializeOwned> Query<T> {
    /// Reads them.
    pub fn of(req: &HttpRequest) -> Result<T, Problem> {
        let raw = req.query_string();
        // The parser below replaces what is no UTF-8 instead of refusing it.
        path::decode(raw).ok_or_else(|| Problem::bad_request("the query is not percent-encoded UTF-8"))?;
        let parsed = web::Query::<T>::from_query(raw);
        parsed.map(web::Query::into_inner).map_err(|why| {
            let why = why.to_string();
            // The framework's own words before the reason say nothing to a caller.
            Problem::bad_request(format!(
                "the query: {}",
                why.strip_prefix("Query deserialize error: ").unwrap_or(&why)
            ))
        })
    }
}

impl<T: DeserializeOwned> FromRequest for Query<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(req).map(Self))
    }
}

/// Which page of the names that begin with `prefix`.
pub struct Page {
    prefix: Option<String>,
    limit: Option<usize>,
    cursor: Option<String>,
}

impl Page {
    /// What stands among other parameters of a question.
    pub fn new(prefix: Option<String>, limit: Option<usize>, cursor: Option<String>) -> Self {
        Self { prefix, limit, cursor }
    }

    /// How many entries at most.
    pub fn limit(&self) -> Result<usize, Problem> {
        Ok(listing::limit(self.limit)?)
    }

    /// What the names begin with; empty for all.
    pub fn prefix(&self) -> Result<&str, Problem> {
        let prefix = self.prefix.as_deref().unwrap_or_default();
        match ChannelName::parse(prefix) {
            // Names may begin so, though none is so.
            Ok(_) | Err(NameError::Empty | NameError::Dots) => Ok(prefix),
            Err(why) => Err(Problem::bad_request(format!("the query: `prefix`: {why}"))),
        }
    }

    /// The name before the page.
    pub fn after(&self) -> Result<Option<String>, Problem> {
        Ok(self.cursor.as_deref().map(cursor::name).transpose()?)
    }
}
