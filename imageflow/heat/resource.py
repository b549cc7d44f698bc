"""OS::Imageflow::Image: asks imageflow for an image, waits until it is there, and is its Glance id for servers.

What is built already is reused, what is being built is joined; with `build: never` only what is there is taken.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from heat.common.exception import Error, NotFound, StackValidationFailed
from heat.engine import constraints, resource
from heat.engine.attributes import Schema as Attribute
from heat.engine.properties import Schema as Property
from heat.objects.resource_data import ResourceData
from keystoneauth1 import exceptions

from imageflow.heat import client, request
from imageflow.heat.request import Answer

LOG = logging.getLogger(__name__)
T = TypeVar("T")
_AWAY = 600.0  # seconds that imageflow may give no answer while a stack waits: an upgrade, a fail-over
_LIVE = ("state", "reason")
_PREEMPTED = "preempted"


@dataclass
class Waiting:
    """A resource that waits for its image."""

    asked: bool = False
    begun: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)  # when imageflow gave its last answer

    @property
    def silence(self) -> float:
        """Seconds without an answer."""
        return time.monotonic() - self.heard

    def later(self) -> resource.PollDelay:
        """What is raised to be called again, ever more rarely."""
        return resource.PollDelay(request.delay(time.monotonic() - self.begun))


def _texts(description: str) -> Property:
    return Property(Property.LIST, description, default=[], schema=Property(Property.STRING))


def _attribute(description: str) -> Attribute:
    # a stored one would be that of an earlier day: `stack check` and updates may find another
    return Attribute(description, cache_mode=Attribute.CACHE_NONE, type=Attribute.STRING)


class Image(resource.Resource):
    """An image with this in it. Another wish is another resource: only `build` can be changed in place.

    So heat makes the new image first, then moves the servers, then takes the old request back; and a rollback finds the old
    image untouched.
    """

    default_client_name = client.NAME
    always_replace_on_check_failed = False  # needs_replace_failed says whether; imageflow may have been away

    properties_schema: ClassVar[dict[str, Property]] = {
        "os": Property(
            Property.STRING,
            "What it is made of: an entry of the operator's catalog.",
            constraints=[constraints.Length(1, 255), constraints.CustomConstraint("imageflow.os")],
        ),
        "packages": _texts("Packages of the distribution. Their order does not matter."),
        "pip_packages": _texts("Python packages, as pip writes them: flask==3.1.*"),
        "custom_files": Property(
            Property.LIST,
            "Files to put into it.",
            default=[],
            schema=Property(
                Property.MAP,
                schema={
                    "path": Property(
                        Property.STRING,
                        "Where it is put, from the root on.",
                        required=True,
                        constraints=[constraints.AllowedPattern("/.+")],
                    ),
                    "content": Property(Property.STRING, "Its text, such as {get_file: site.conf}.", required=True),
                    "mode": Property(
                        Property.STRING,
                        "Its mode in octal digits.",
                        constraints=[constraints.AllowedPattern("[0-7]{3,4}")],
                    ),
                    "owner": Property(Property.STRING, "Who owns it, USER:GROUP."),
                },
            ),
        ),
        "config_system": Property(Property.STRING, "What applies the recipe, such as chef; as the catalog has it."),
        "recipe": Property(Property.STRING, "The name of a recipe for config_system in the catalog."),
        request.IMAGE: Property(
            Property.STRING,
            "Instead of os and what is in it: the name of an image of a registered recipe.",
            constraints=[constraints.CustomConstraint("imageflow.image")],
        ),
        request.BUILD: Property(
            Property.STRING,
            "if-missing: build it unless it is there. never: only take what is there.",
            default=request.IF_MISSING,
            update_allowed=True,
            constraints=[constraints.AllowedValues([request.IF_MISSING, request.NEVER])],
        ),
    }

    attributes_schema: ClassVar[dict[str, Attribute]] = {
        "image_id": _attribute("Glance's id of the image."),
        "digest": _attribute("SHA-256 of the image, in hexadecimal digits."),
        "build_id": _attribute("The build that made it."),
        "state": _attribute("ready, building, paused, failed or missing, as it is now."),
        "reason": _attribute("Why it is in this state."),
    }

    def validate(self) -> None:
        """Refuse properties that do not fit together, and what the catalog does not have, before anything is made."""
        super().validate()
        if problem := request.problem(self.properties):
            raise StackValidationFailed(message=problem)
        # what follows from other resources is not known yet
        if self.properties["os"] and not self.t.required_resource_names():
            try:
                self._call(lambda api: api.check(wanted=request.wanted(self.properties)))
            except exceptions.ClientException as error:
                if client.is_refusal(error):
                    raise StackValidationFailed(message=client.explain(error)) from error

    def handle_create(self) -> Waiting:
        """Ask; the id is stored before the question is sent, so that no request is left that heat does not know."""
        self.resource_id_set(request.name_of(self.uuid))
        return Waiting()

    def check_create_complete(self, waiting: Waiting) -> bool:
        """Ask again, ever more rarely, until the image is there."""
        if self._is_preempted():
            raise Error("a later update of the stack does not wait for it")
        answer = Answer(self._patiently(waiting, self._look if waiting.asked else self._ask))
        waiting.asked = True
        if answer.building:
            raise waiting.later()
        self._take(answer)
        return True

    def handle_update(self, json_snippet: Any, tmpl_diff: Any, prop_diff: dict[str, Any]) -> None:
        """Nothing: `build` says what to do when the image is missing, and here it is there. One that failed is replaced."""

    def handle_preempt(self) -> None:
        """End the wait for a build that a rollback, or a later update, does not need: heat itself would wait it out.

        This is another process than the one that waits, and the resource is locked: so it is told by a row of its own.
        """
        self.data_set(_PREEMPTED, "true")

    def _is_preempted(self) -> bool:
        try:
            return _PREEMPTED in ResourceData.get_all(self)  # self.data() remembers what it has read
        except NotFound:
            return False

    def needs_replace_failed(self) -> bool:
        """Whether a failed resource has to be made anew: not when its image came after all, as its build was resumed.

        Of one that is kept heat says COMPLETE without asking; so it has to be ready. A new one is harmless: it joins the
        build of the old one.
        """
        if not self.resource_id:
            return True
        try:
            answer = Answer(self._call(self._look))
            if answer.building:
                return True
            self._take(answer)
        except (exceptions.ClientException, Error) as error:  # from here an exception would leave the stack IN_PROGRESS
            LOG.info("%s is replaced: %s", self, error)
            return True
        return False

    def handle_check(self) -> None:
        """Whether the image is still there."""
        try:
            answer = Answer(self._call(self._look))
        except exceptions.ClientException as error:
            raise Error(client.explain(error)) from error
        if answer.building:
            raise Error("the image is being built")
        self._take(answer)

    def handle_delete(self) -> Waiting:
        """Take the request back. The image stays: others may use it, and imageflow knows when nobody does."""
        return Waiting()

    def check_delete_complete(self, waiting: Waiting) -> bool:
        """Try again while imageflow is away."""
        if self.resource_id is not None:
            self._patiently(waiting, lambda api: api.take_back(self.resource_id))
        return True

    def handle_adopt(self, resource_data: Any = None) -> Waiting:
        """Go on with the request of an abandoned stack."""
        super().handle_adopt(resource_data)
        self.data_delete(_PREEMPTED)
        return Waiting()

    def check_adopt_complete(self, waiting: Waiting) -> bool:
        """Wait as for a new one."""
        return self.check_create_complete(waiting)

    def get_reference_id(self) -> Any:
        """What {get_resource: …} is: the id in Glance, which a server takes as its image."""
        return self.data().get("image_id") or super().get_reference_id()

    def _resolve_attribute(self, name: str) -> Any:
        kept = None if name in _LIVE else self.data().get(name)
        if kept or self.resource_id is None:
            return kept
        try:
            return self._call(self._look).get(name)
        except exceptions.ClientException as error:
            LOG.warning("%s: %s is not known now: %s", self, name, client.explain(error))
            return None

    def _show_resource(self) -> dict[str, Any]:
        return self._call(self._look)

    def parse_live_resource_data(self, resource_properties: Any, resource_data: Any) -> dict[str, Any]:
        """Nothing of a request changes by itself (`observe_on_update`)."""
        return {}

    def _ask(self, api: client.Client) -> dict[str, Any]:
        stack = self.stack
        return api.ask(
            self.resource_id, request.body(self.properties, stack=stack.name, stack_id=stack.id, resource=self.name)
        )

    def _look(self, api: client.Client) -> dict[str, Any]:
        return api.request(self.resource_id)

    def _take(self, answer: Answer) -> None:
        """Keep what there is to know of an image that is there; Error when it will not be.

        Not ResourceInError: heat would delete the resource and make it again, up to five times.
        """
        if failure := answer.failure(self.stack.name):
            raise Error(failure)
        for key, value in answer.facts.items():
            self.data_set(key, value)

    def _patiently(self, waiting: Waiting, call: Callable[[client.Client], T]) -> T:
        """Call; PollDelay while imageflow is away."""
        try:
            answer = self._call(call)
        except exceptions.ClientException as error:
            if not client.is_passing(error) or waiting.silence > _AWAY:
                raise Error(client.explain(error)) from error
            LOG.warning("%s waits for imageflow, which is away: %s", self, error)
            raise waiting.later() from error
        waiting.heard = time.monotonic()
        return answer

    def _call(self, call: Callable[[client.Client], T]) -> T:
        """Call with the user's token. It may expire during a build; the trust that every stack has does not."""
        try:
            return call(self.client())
        except exceptions.Unauthorized:
            if not self.stack.user_creds_id:  # it is being checked, and has no trust yet
                raise
            stored = self.stack.stored_context()  # held until the call is done: clients only have a weak reference
            return call(stored.clients.client(client.NAME))
