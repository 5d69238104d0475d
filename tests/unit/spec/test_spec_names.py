"""Names that lead nowhere are told, but never what came out of a variable."""

from __future__ import annotations

import pytest

from tests.unit.spec.spec_loading import problems_of, service_problems

SECRET = {"NAME": "s3cret"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("depends_on: [nope]", "1:18: services.web.depends_on: there is no service 'nope'"),
        ("depends_on: ['$NAME']", "1:18: services.web.depends_on: there is no service '$NAME'"),
        ("networks: {nope: }", "1:16: services.web.networks: the network 'nope' is not declared: "),
        ("networks: ['${NAME}']", "1:16: services.web.networks: the network '${NAME}' is not declared: "),
        ("volumes: ['nope:/d']", "1:15: services.web.volumes[0]: 'nope:/d': the volume 'nope' is not declared: "),
        ("volumes: ['$NAME:/d']", "1:15: services.web.volumes[0]: '$NAME:/d': the volume is not declared: "),
        ("volumes: [{type: volume, source: nope, target: /d}]", "[0]: the volume 'nope' is not declared: "),
        ("volumes: [{type: volume, source: $NAME, target: /d}]", "[0]: the volume is not declared: "),
    ],
)
def test_what_is_not_declared_is_named(body: str, said: str) -> None:
    (problem,) = service_problems(body, environment=SECRET)
    assert said in problem
    assert "s3cret" not in problem


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("$TAG", ": the variable TAG is not set"),
        ("nginx:${TAG}", ": the variable TAG is not set"),
        ("${HOST}/${TEAM}/app:${TAG:-1}", ": the variables HOST, TEAM are not set"),
        ("${EMPTY:-$TAG}", ": the variable TAG is not set"),
        ("nginx:${EMPTY}", " is not an image reference"),
        ("NGINX:${NAME}${TAG+x}", "registry.example/team/app:1.2)"),
    ],
)
def test_an_image_of_a_variable_that_is_not_set(image: str, said: str) -> None:
    problems = problems_of(f"services: {{web: {{image: '{image}'}}}}", environment={**SECRET, "EMPTY": ""})
    assert len(problems) == 1
    assert problems[0].endswith(said)
    assert "s3cret" not in problems[0]
    assert problems_of(f"images: ['{image}']", environment={**SECRET, "EMPTY": ""})[0].endswith(said)
