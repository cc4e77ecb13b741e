"""The AsyncAPI document: sound, and as the broker's rights and the codec have it."""

import fnmatch

import jsonschema_rs
import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema

from common.constants import PACKET_MAX_BYTES
from common.runtime import asyncapi, rights, streams
from common.runtime.asyncapi import CLIENT, FLOWS, SERVICES

DOCUMENT = asyncapi.document()


def able(role, command, stream):
    """Whether the broker lets the role do that with the stream."""
    held = rights.client("kiosk") if role == CLIENT else rights.of(role)
    return any(
        command in grant.commands and any(fnmatch.fnmatchcase(stream, key) for key in grant.keys)
        for grant in held.grants
    )


def key_of(flow):
    return flow.address.format(client="kiosk", stream=f"{{{streams.PACKETS}}}")


def referred(node):
    """Every $ref below a node."""
    if isinstance(node, dict):
        found = [node["$ref"]] if "$ref" in node else []
        return found + [each for value in node.values() for each in referred(value)]
    return [each for value in node for each in referred(value)] if isinstance(node, list) else []


def test_it_is_an_asyncapi_3_document_and_every_reference_leads_somewhere():
    ApplicationSchema.model_validate(DOCUMENT)
    assert len(referred(DOCUMENT)) > 100
    for reference in referred(DOCUMENT):
        node = DOCUMENT
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


def test_every_stream_is_there():
    named = {
        value for name, value in vars(streams).items() if isinstance(value, str) and name.isupper() and "qig:" in value
    } - {streams.BLOB, streams.RATES}
    named = {name for name in named if not name.startswith("{")}
    told = {flow.address.partition("{")[0] for flow in FLOWS} - {""}
    assert told == named


@pytest.mark.parametrize("flow", [flow for flow in FLOWS if "{stream}" not in flow.address], ids=lambda f: f.address)
@pytest.mark.parametrize("role", [*SERVICES, CLIENT])
def test_it_says_what_the_brokers_rights_say(flow, role):
    stream = key_of(flow)
    assert (role in flow.senders) == able(role, "xadd", stream)
    reads = able(role, "xread", stream) or able(role, "xreadgroup", stream)
    assert (role in flow.readers) == reads


def test_dead_letters_are_written_by_the_services_and_read_by_the_operator():
    flow = next(flow for flow in FLOWS if "{stream}" in flow.address)
    assert key_of(flow) == streams.dead(streams.PACKETS)
    assert {role for role in SERVICES for name in streams.GROUPS if able(role, "xadd", streams.dead(name))} == set(
        flow.senders
    )
    assert all(able(rights.OPERATOR, "xread", streams.dead(name)) for name in streams.GROUPS)


def test_every_example_is_of_its_schema():
    shown = 0
    for message in DOCUMENT["components"]["messages"].values():
        for example in message.get("examples", []):
            jsonschema_rs.validate({**message["payload"], "components": DOCUMENT["components"]}, example["payload"])
            shown += 1
    assert shown == len(DOCUMENT["components"]["messages"]) - 1  # of a packet docs/wire/packet.md shows the bytes


def test_a_packet_is_told_with_its_limit():
    assert DOCUMENT["components"]["messages"]["Packet"]["x-max-bytes"] == PACKET_MAX_BYTES
