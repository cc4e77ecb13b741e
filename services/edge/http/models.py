"""GET /v1/models: the ways to be answered, each as a model. Pure."""

from typing import Final, Literal

from typing_extensions import TypedDict

from services.edge.http.asking import MODELS, check_model

OWNER: Final = "qig-constellation"


class Model(TypedDict):
    """created: when this edge began, seconds since 1970."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(TypedDict):
    """All of them."""

    object: Literal["list"]
    data: list[Model]


def model_of(name: str, created: int) -> Model:
    """One model. Raises Refusal 404."""
    return Model(id=check_model(name), object="model", created=created, owned_by=OWNER)


def model_list(created: int) -> ModelList:
    """All models, the one for everyday first."""
    return ModelList(object="list", data=[model_of(name, created) for name in MODELS])
