"""Each cloud, played by a server on loopback: what mlsync asks, and what it makes of the answers."""

from __future__ import annotations

import json

import pytest

from cloud_service import CloudService, http
from mlsync.preemption.asian_clouds import Alibaba, Tencent
from mlsync.preemption.aws import HOP_LIMIT, Aws
from mlsync.preemption.azure import Azure
from mlsync.preemption.by_signal import Runpod, Slurm
from mlsync.preemption.google import Google
from mlsync.preemption.metadata import Endpoint, MetadataFault
from mlsync.preemption.notice import Effect, time_of

NOON_S = 1_600_000_000.0  # 2020-09-13 12:26:40 UTC
AWS = "/latest/meta-data/"
TOKEN = "AQAE-token-of-the-test=="
EVENTS = "/metadata/scheduledevents"
GCP = "/computeMetadata/v1/instance/"


@pytest.fixture
def cloud():
    """A service without a path."""
    service = CloudService()
    yield service
    service.close()


@pytest.fixture
def ec2(cloud):
    """A spot instance of EC2 of which nothing is told."""

    def guarded(text):
        def answer(request, _connection):
            is_known = request.headers.get("x-aws-ec2-metadata-token") == cloud.token
            return (http(text) if text else http("", 404)) if is_known else http("", 401)

        return answer

    cloud.token = TOKEN
    cloud.answers["PUT", "/latest/api/token"] = lambda _request, _connection: http(cloud.token)
    for path in (
        "spot/instance-action",
        "events/recommendations/rebalance",
        "events/maintenance/scheduled",
        "autoscaling/target-lifecycle-state",
    ):
        cloud.answers[AWS + path] = guarded("")
    cloud.answers[AWS + "instance-life-cycle"] = guarded("spot")
    cloud.tell = lambda path, text: cloud.answers.__setitem__(AWS + path, guarded(text))
    return cloud


def told(notices):
    """The notices in short."""
    return [(one.kind, one.effect, one.deadline_s, one.certain) for one in notices]


# ---------------------------------------------------------------- AWS


def test_aws_tells_of_the_end_of_a_spot_instance(ec2):
    """A notice names the action and its date; before it there is none, and the token is asked for once."""
    aws = Aws(ec2.endpoint)
    assert aws.notices(NOON_S) == []
    ec2.tell("spot/instance-action", '{"action": "terminate", "time": "2020-09-13T12:28:40Z"}')
    notice = ("termination", Effect.ENDS, NOON_S + 120, True)
    assert told(aws.notices(NOON_S + 5)) == [notice]
    assert ec2.asked.count("/latest/api/token") == 1
    assert ec2.requests[0].headers["x-aws-ec2-metadata-token-ttl-seconds"] == "21600"


@pytest.mark.parametrize(
    ("said", "kind", "deadline_s"),
    [
        ('{"action": "stop", "time": ""}', "stop", None),
        ('{"action": "hibernate", "time": "2020-09-13T12:28:40Z"}', "hibernation", NOON_S),
        ('{"action": "eat", "time": "tomorrow"}', "termination", None),
        ("{}", "termination", None),
    ],
)
def test_aws_dates_may_be_blank(ec2, said, kind, deadline_s):
    """An action without a date is an action; a hibernation begins at once whatever its date."""
    ec2.tell("spot/instance-action", said)
    assert told(Aws(ec2.endpoint).notices(NOON_S)) == [(kind, Effect.ENDS, deadline_s, True)]


def test_a_rebalance_recommendation_of_aws_ends_nothing(ec2):
    """It is a risk without a date."""
    ec2.tell("events/recommendations/rebalance", '{"noticeTime": "2020-09-13T12:20:00Z"}')
    assert told(Aws(ec2.endpoint).notices(NOON_S)) == [("rebalance", Effect.RISK, None, False)]


def test_aws_maintenance_and_scaling_are_asked_seldom(ec2):
    """Active events count, with dates of their own form; a group that takes the instance out does not say when."""
    events = [
        {
            "NotBefore": "21 Jan 2021 09:00:43 GMT",
            "Code": "system-reboot",
            "EventId": "instance-event-1",
            "State": "active",
        },
        {"NotBefore": "21 Jan 2019 09:00:43 GMT", "Code": "system-reboot", "EventId": "x", "State": "completed"},
    ]
    ec2.tell("events/maintenance/scheduled", json.dumps(events))
    ec2.tell("autoscaling/target-lifecycle-state", "Terminated")
    aws = Aws(ec2.endpoint)
    first = told(aws.notices(NOON_S))
    assert first == [
        ("maintenance", Effect.ENDS, time_of("2021-01-21T09:00:43Z"), True),
        ("termination", Effect.ENDS, None, True),
    ]
    assert told(aws.notices(NOON_S + 29)) == first
    assert ec2.asked.count(AWS + "events/maintenance/scheduled") == 1
    aws.notices(NOON_S + 30)
    assert ec2.asked.count(AWS + "events/maintenance/scheduled") == 2


def test_an_instance_on_demand_is_not_asked_for_spot_notices(ec2):
    """Its metadata has none, and each question would be in vain."""
    ec2.tell("instance-life-cycle", "on-demand")
    Aws(ec2.endpoint).notices(NOON_S)
    assert AWS + "spot/instance-action" not in ec2.asked


def test_a_token_of_aws_is_renewed_before_it_ends(ec2):
    """And at once if the service does not know it any more, or the clock was set back."""
    aws = Aws(ec2.endpoint)
    for now_s, tokens in ((NOON_S, 1), (NOON_S + 21_584, 1), (NOON_S + 21_586, 2), (NOON_S, 3)):
        aws.notices(now_s)
        assert ec2.asked.count("/latest/api/token") == tokens
    ec2.token = "another"
    assert aws.notices(NOON_S) == []
    assert ec2.asked.count("/latest/api/token") == 4


def test_a_token_that_hangs_is_told_as_the_hop_limit(ec2):
    """From a container behind a hop limit of 1 no token comes, and all else is refused: the fault says what to do."""
    ec2.answers["PUT", "/latest/api/token"] = ec2.hang
    aws = Aws(Endpoint("127.0.0.1", ec2.port, 0.1))
    with pytest.raises(MetadataFault, match=HOP_LIMIT):
        aws.notices(NOON_S)
    described = aws.describe(NOON_S + 1)
    assert (described.is_reachable, described.problem) == (False, HOP_LIMIT)
    assert "--http-put-response-hop-limit 2" in described.advice
    assert ec2.asked.count("/latest/api/token") == 1
    ec2.answers["PUT", "/latest/api/token"] = http(TOKEN)
    assert aws.notices(NOON_S + 301) == []


def test_without_a_token_version_1_of_the_service_does(ec2):
    """Where it is allowed, notices come although no token does."""
    ec2.answers["PUT", "/latest/api/token"] = ec2.hang
    ec2.answers[AWS + "instance-life-cycle"] = http("spot")
    ec2.answers[AWS + "spot/instance-action"] = http('{"action": "terminate", "time": "2020-09-13T12:28:40Z"}')
    for path in (
        "events/recommendations/rebalance",
        "events/maintenance/scheduled",
        "autoscaling/target-lifecycle-state",
    ):
        ec2.answers[AWS + path] = http("", 404)
    assert len(Aws(Endpoint("127.0.0.1", ec2.port, 0.1)).notices(NOON_S)) == 1


@pytest.mark.parametrize(
    "answer", [http("", 500), http("", 302, Location="http://x"), http("<html>"), http("[1]"), http("null")]
)
def test_nonsense_of_aws_is_a_fault_and_no_notice(ec2, answer):
    """A status or a text that means nothing neither ends the training nor the listening."""
    ec2.answers[AWS + "spot/instance-action"] = answer
    with pytest.raises(MetadataFault):
        Aws(ec2.endpoint).notices(NOON_S)


# ---------------------------------------------------------------- Google Cloud


def test_google_is_asked_to_wait_for_a_change(cloud):
    """The second question has the mark of the first answer, so that no change between the two is missed."""
    cloud.answers[GCP + "preempted"] = http("FALSE", ETag="a/b")
    cloud.answers[GCP + "maintenance-event"] = http("NONE")
    google = Google(cloud.endpoint)
    assert google.notices(NOON_S) == []
    cloud.answers[GCP + "preempted"] = http("TRUE", ETag="2")
    assert told(google.notices(NOON_S)) == [("termination", Effect.ENDS, None, True)]
    first, _, second, _ = cloud.requests
    assert first.target == GCP + "preempted"
    assert second.target == GCP + "preempted?wait_for_change=true&timeout_sec=20&last_etag=a%2Fb"
    assert {request.headers["metadata-flavor"] for request in cloud.requests} == {"Google"}


@pytest.mark.parametrize(
    ("said", "notices"),
    [
        ("NONE", []),
        ("MIGRATE_ON_HOST_MAINTENANCE", [("migration", Effect.PAUSE, None, True)]),
        ("TERMINATE_ON_HOST_MAINTENANCE", [("maintenance", Effect.ENDS, NOON_S + 60, True)]),
    ],
)
def test_maintenance_of_a_google_host(cloud, said, notices):
    """A migration is a pause; an instance with a GPU cannot migrate and ends."""
    cloud.answers[GCP + "preempted"] = http("FALSE")
    cloud.answers[GCP + "maintenance-event"] = http(said)
    google = Google(cloud.endpoint)
    assert told(google.notices(NOON_S)) == notices
    assert told(google.notices(NOON_S + 3)) == notices


@pytest.mark.parametrize("answer", [http("MAYBE"), http("", 404), http("", 503), http("<html>TRUE</html>")])
def test_nonsense_of_google_is_a_fault(cloud, answer):
    """Only the two words count."""
    cloud.answers[GCP + "preempted"] = answer
    with pytest.raises(MetadataFault):
        Google(cloud.endpoint).notices(NOON_S)


# ---------------------------------------------------------------- Azure


def event(kind, status="Scheduled", not_before="Sun, 13 Sep 2020 12:27:10 GMT", resources=("node-7",)):
    """An event as Azure writes it."""
    return {
        "EventId": "A123BC45-1234-5678-AB90-ABCDEF123456",
        "EventStatus": status,
        "EventType": kind,
        "ResourceType": "VirtualMachine",
        "Resources": list(resources),
        "NotBefore": not_before,
        "EventSource": "Platform",
        "DurationInSeconds": -1,
    }


def azure_told(cloud, *events):
    """What is made of a document."""
    cloud.answers[EVENTS] = http(json.dumps({"DocumentIncarnation": 1, "Events": list(events)}))
    cloud.answers["/metadata/instance/compute/name"] = http("Node-7")
    return told(Azure(cloud.endpoint).notices(NOON_S))


@pytest.mark.parametrize(
    ("kind", "word", "effect"),
    [
        ("Preempt", "termination", Effect.ENDS),
        ("Terminate", "termination", Effect.ENDS),
        ("Redeploy", "redeployment", Effect.ENDS),
        ("Reboot", "reboot", Effect.ENDS),
        ("Freeze", "freeze", Effect.PAUSE),
        ("Sing", "maintenance", Effect.RISK),
    ],
)
def test_azure_events_by_their_type(cloud, kind, word, effect):
    """A freeze ends nothing, and a type that nobody knows is a risk."""
    assert azure_told(cloud, event(kind)) == [(word, effect, NOON_S + 30, True)]
    assert cloud.requests[0].target == EVENTS + "?api-version=2020-07-01"
    assert cloud.requests[0].headers["metadata"] == "true"


def test_azure_events_of_other_machines_are_not_ours(cloud):
    """The document names all machines of a scale set; where ours is not known, an event is not certain."""
    assert azure_told(cloud, event("Preempt", resources=("node-8", "node-70"))) == []
    assert azure_told(cloud, event("Preempt", resources=("node-8", "NODE-7")))[0][3] is True
    assert azure_told(cloud, event("Preempt", resources=()))[0][3] is False
    cloud.answers["/metadata/instance/compute/name"] = http("", 500)
    assert [one.certain for one in Azure(cloud.endpoint).notices(NOON_S)] == [False]


@pytest.mark.parametrize(
    ("status", "date", "deadline_s"),
    [
        ("Started", "", NOON_S),
        ("Scheduled", "", None),
        ("Scheduled", "soon", None),
        ("Scheduled", None, None),
        ("Scheduled", "Sun, 13 Sep 2020 25:27:10 GMT", None),
    ],
)
def test_azure_dates_may_be_blank(cloud, status, date, deadline_s):
    """The date of an event that has begun is blank: that is now. Any other date that means nothing is none."""
    assert azure_told(cloud, event("Reboot", status, date)) == [("reboot", Effect.ENDS, deadline_s, True)]


def test_azure_events_that_ended_or_are_none_are_passed_over(cloud):
    """One bad event does not hide the next one."""
    assert azure_told(cloud, event("Preempt", "Completed"), "x", None, {}, event("Preempt")) == [
        ("termination", Effect.ENDS, NOON_S + 30, True)
    ]


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"Events": 5}', "not json"])
def test_an_azure_document_that_does_not_parse_is_a_fault(cloud, body):
    """It is no document without events: that would take back an event."""
    cloud.answers[EVENTS] = http(body)
    with pytest.raises(MetadataFault):
        Azure(cloud.endpoint).notices(NOON_S)


def test_nothing_is_ever_approved(cloud):
    """An approval would hold for all machines of an event."""
    azure_told(cloud, event("Preempt"))
    assert {request.method for request in cloud.requests} == {"GET"}


# ---------------------------------------------------------------- Alibaba, Tencent


def test_alibaba_tells_in_utc_behind_a_token(cloud):
    """404 and an empty answer are both no notice."""
    path = "/latest/meta-data/instance/spot/termination-time"
    cloud.answers["PUT", "/latest/api/token"] = http(TOKEN)
    alibaba = Alibaba(cloud.endpoint)
    assert alibaba.notices(NOON_S) == []
    cloud.answers[path] = http("")
    assert alibaba.notices(NOON_S) == []
    cloud.answers[path] = http("2020-09-13T12:31:40Z")
    assert told(alibaba.notices(NOON_S)) == [("termination", Effect.ENDS, NOON_S + 300, True)]
    assert cloud.requests[-1].headers["x-aliyun-ecs-metadata-token"] == TOKEN
    assert cloud.asked.count("/latest/api/token") == 1


def test_alibaba_without_tokens_is_asked_without(cloud):
    """An instance in normal mode has no need of one."""
    cloud.answers["/latest/meta-data/instance/spot/termination-time"] = http("2020-09-13T12:31:40Z")
    assert len(Alibaba(cloud.endpoint).notices(NOON_S)) == 1
    assert "x-aliyun-ecs-metadata-token" not in cloud.requests[-1].headers


def test_tencent_tells_in_the_time_of_beijing(cloud):
    """Eight hours east of UTC, without a zone in the text."""
    tencent = Tencent(cloud.endpoint)
    assert tencent.notices(NOON_S) == []
    cloud.answers["/latest/meta-data/spot/termination-time"] = http("2020-09-13 20:28:40")
    assert told(tencent.notices(NOON_S)) == [("termination", Effect.ENDS, NOON_S + 120, True)]


@pytest.mark.parametrize("answer", [http("<html>log in</html>"), http("", 500), http("0000-00-00 00:00:00")])
def test_a_page_of_a_proxy_is_no_termination(cloud, answer):
    """Whatever is no date is a fault."""
    cloud.answers["/latest/meta-data/spot/termination-time"] = answer
    with pytest.raises(MetadataFault):
        Tencent(cloud.endpoint).notices(NOON_S)


# ---------------------------------------------------------------- the others, and what all have in common


def test_slurm_knows_when_the_time_of_its_job_is_up():
    """By its environment; without a date, or with nonsense, a signal is all."""
    slurm = Slurm({"SLURM_JOB_END_TIME": "1600003600"})
    assert told(slurm.notices(NOON_S)) == [("time limit", Effect.ENDS, NOON_S + 3600, True)]
    assert "SLURM_JOB_END_TIME" in slurm.describe(NOON_S).told_by
    for said in ("", "soon", "-5", "9" * 40):
        assert Slurm({"SLURM_JOB_END_TIME": said}).notices(NOON_S) == []


def test_a_platform_without_a_service_describes_its_grace():
    """There is nothing to reach, and five seconds."""
    described = Runpod().describe(NOON_S)
    assert (described.told_by, described.grace_s, described.is_reachable) == ("SIGTERM", 5.0, None)


def test_a_description_says_what_is_wrong(cloud):
    """A service that answers is reachable; one that does not has a problem and an advice."""
    cloud.answers[GCP + "preempted"] = http("FALSE")
    cloud.answers[GCP + "maintenance-event"] = http("NONE")
    described = Google(cloud.endpoint).describe(NOON_S)
    assert (described.is_reachable, described.problem, described.advice) == (True, None, None)
    assert described.endpoint == f"127.0.0.1:{cloud.port}"
    cloud.close()
    for kind in (Tencent, Aws):
        described = kind(Endpoint("127.0.0.1", cloud.port, 0.1)).describe(NOON_S)
        assert described.is_reachable is False
        assert described.problem.startswith("no answer")
        assert "must be" in described.advice


def test_no_text_of_a_service_gets_into_a_log_as_it_is(ec2):
    """Names from outside are short, on one line, and without control characters."""
    ec2.tell("spot/instance-action", json.dumps({"action": "stop", "time": "x\n\x1b[31m" + "y" * 500}))
    ident = Aws(ec2.endpoint).notices(NOON_S)[0].ident
    assert ident.isprintable()
    assert len(ident) < 120


@pytest.mark.parametrize(
    ("text", "moment_s"),
    [
        ("2020-09-13T12:26:40Z", NOON_S),
        ("2020-09-13 12:26:40", NOON_S),
        ("2020-09-13T12:26:40.123Z", NOON_S),
        ("13 Sep 2020 12:26:40 GMT", NOON_S),
        (" Sun, 13 Sep 2020 12:26:40 GMT ", NOON_S),
        ("13 Smarch 2020 12:26:40 GMT", None),
        ("2020-13-45T12:26:40Z", None),
        ("", None),
        (None, None),
        (1600000000, None),
    ],
)
def test_dates_of_all_forms(text, moment_s):
    """ISO 8601, and the two forms of RFC 1123; all else is none."""
    assert time_of(text) == moment_s
