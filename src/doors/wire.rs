//! The shapes that the native WebSocket, server-sent events and REST have in common, as `docs/protocol.md` writes them.

use std::sync::Arc;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use crate::{
    core::{Count, Device, UserInfo},
    domain::{
        delta::{Connected, Leave},
        member::{Member, Occupancy, Reason, Status},
        name::{ChannelName, ConnectionId, UserName},
        person::{Choice, TEXT_BYTES, View},
        version::Epoch,
    },
};

/// MEMBER: a user in a channel, or one connection of a user there.
#[derive(Debug, Serialize)]
pub struct MemberShape<'a> {
    user: &'a UserName,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<&'a ConnectionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a Arc<str>>,
    status: Status,
    state: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
    since: u64,
    connections: usize,
}

impl<'a> From<&'a Member> for MemberShape<'a> {
    fn from(member: &'a Member) -> Self {
        Self {
            user: &member.user,
            connection: None,
            device: None,
            status: member.status,
            state: &member.latest.state,
            info: member.latest.info.as_deref(),
            since: member.since,
            connections: member.connections,
        }
    }
}

impl<'a> From<&'a Connected> for MemberShape<'a> {
    fn from((connection, present): &'a Connected) -> Self {
        Self {
            user: &present.user,
            connection: Some(connection),
            device: present.shown.device.as_ref(),
            status: present.shown.status,
            state: &present.shown.state,
            info: present.shown.info.as_deref(),
            since: present.shown.since,
            connections: 1,
        }
    }
}

/// LEAVE: who is no longer there, and why.
#[derive(Debug, Serialize)]
pub struct LeaveShape<'a> {
    user: &'a UserName,
    #[serde(skip_serializing_if = "Option::is_none")]
    connection: Option<&'a ConnectionId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a Arc<str>>,
    reason: Reason,
    state: &'a RawValue,
}

impl<'a> From<&'a Leave> for LeaveShape<'a> {
    fn from(leave: &'a Leave) -> Self {
        Self {
            user: &leave.member.user,
            connection: None,
            device: None,
            reason: leave.reason,
            state: &leave.member.latest.state,
        }
    }
}

impl<'a> From<&'a (Connected, Reason)> for LeaveShape<'a> {
    fn from(((connection, present), reason): &'a (Connected, Reason)) -> Self {
        Self {
            user: &present.user,
            connection: Some(connection),
            device: present.shown.device.as_ref(),
            reason: *reason,
            state: &present.shown.state,
        }
    }
}

/// One channel, with its counts.
#[derive(Debug, Serialize)]
pub struct ChannelShape<'a> {
    channel: &'a ChannelName,
    #[serde(flatten)]
    count: CountShape<'a>,
}

impl<'a> ChannelShape<'a> {
    /// A channel and how many are in it.
    pub fn new(channel: &'a ChannelName, count: &'a Count) -> Self {
        Self { channel, count: count.into() }
    }
}

/// The counts of a channel at a version.
#[derive(Debug, Serialize)]
pub struct CountShape<'a> {
    epoch: &'a Epoch,
    version: u64,
    occupancy: Occupancy,
    stale: bool,
}

impl<'a> From<&'a Count> for CountShape<'a> {
    fn from(count: &'a Count) -> Self {
        Self {
            epoch: &count.version.epoch,
            version: count.version.number,
            occupancy: count.occupancy,
            stale: count.stale,
        }
    }
}

/// How a user is there, or when last.
#[derive(Debug, Serialize)]
pub struct UserStatusShape<'a> {
    #[serde(serialize_with = "status_or_offline")]
    status: Option<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_active: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seen: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'a RawValue>,
}

impl<'a> From<&'a View> for UserStatusShape<'a> {
    fn from(view: &'a View) -> Self {
        Self {
            status: view.status,
            text: view.text.as_deref(),
            since: view.since,
            last_active: view.last_active,
            last_seen: view.last_seen,
            state: view.state.as_deref(),
        }
    }
}

fn status_or_offline<S: Serializer>(status: &Option<Choice>, serializer: S) -> Result<S::Ok, S::Error> {
    match status {
        Some(status) => status.serialize(serializer),
        None => serializer.serialize_str("offline"),
    }
}

/// One user with the connections.
#[derive(Debug, Serialize)]
pub struct UserShape<'a> {
    user: &'a UserName,
    #[serde(flatten)]
    status: UserStatusShape<'a>,
    connections: Vec<DeviceShape<'a>>,
    channels: Vec<&'a ChannelName>,
    stale: bool,
}

#[derive(Debug, Serialize)]
struct DeviceShape<'a> {
    connection: &'a ConnectionId,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<&'a Arc<str>>,
    since: u64,
    channels: &'a [ChannelName],
}

impl<'a> From<&'a Device> for DeviceShape<'a> {
    fn from(device: &'a Device) -> Self {
        Self {
            connection: &device.connection,
            device: device.device.as_ref(),
            since: device.since,
            channels: &device.channels,
        }
    }
}

impl<'a> From<&'a UserInfo> for UserShape<'a> {
    fn from(info: &'a UserInfo) -> Self {
        let mut channels: Vec<&ChannelName> = info.devices.iter().flat_map(|device| &device.channels).collect();
        channels.sort();
        channels.dedup();
        Self {
            user: &info.user,
            status: (&info.view).into(),
            connections: info.devices.iter().map(DeviceShape::from).collect(),
            channels,
            stale: info.stale,
        }
    }
}

/// Whether a text may stand beside a status.
///
/// # Errors
/// A sentence that says how it may be.
pub fn check_text(text: Option<&str>) -> Result<(), String> {
    match text {
        Some(text) if text.len() > TEXT_BYTES || text.chars().any(char::is_control) => {
            Err(format!("`text` has at most {TEXT_BYTES} bytes and no control characters"))
        }
        _ => Ok(()),
    }
}
