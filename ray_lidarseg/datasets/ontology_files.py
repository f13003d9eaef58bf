"""How an ontology travels: index file → prepared folder; ``training.completion`` carries it on into the run folder."""

import pyarrow as pa

from ray_lidarseg import storage
from ray_lidarseg.datasets.parquet_files import open_parquet
from ray_lidarseg.errors import DataError
from ray_lidarseg.recipe.ontology import Ontology, parse_ontology
from ray_lidarseg.recipe.schema import Data

ONTOLOGY_NAME = "ontology.json"
_KEY = b"ray_lidarseg.recipe.ontology"


def attach(table: pa.Table, ontology: Ontology) -> pa.Table:
    """The index table with the ontology in its metadata."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: ontology.model_dump_json().encode()})


def of_index(index: str) -> Ontology | None:
    """The ontology that `index` wrote into its file; None for the built-in data sets."""
    with open_parquet(*storage.resolve(storage.absolute(index)), writer="index") as file:
        text = (file.schema_arrow.metadata or {}).get(_KEY)
    return None if text is None else parse_ontology(text.decode(), origin=index)


def of_prepared(prepared: str) -> Ontology | None:
    """The ontology beside the shards of a folder; None for the built-in data sets."""
    file = storage.join(storage.absolute(prepared), ONTOLOGY_NAME)
    return parse_ontology(storage.read_bytes(file).decode(), origin=file) if storage.exists(file) else None


def keep(ontology: Ontology | None, prepared: str) -> None:
    """Writes an index's ontology beside the shards; synonyms and colours may change, what labels mean may not.

    Raises:
        DataError: The folder was prepared with another one.
    """
    there = of_prepared(prepared)
    if ontology is not None and there is None:  # of two jobs that start at once, one writes it
        file = storage.join(prepared, ONTOLOGY_NAME)
        text = storage.write_once(file, ontology.model_dump_json(indent=1).encode())
        there = parse_ontology(text.decode(), origin=file)
    if there in (None, ontology):
        return
    if ontology is None or _of_labels(there) != _of_labels(ontology):
        raise DataError(f"{prepared} was prepared with another ontology: prepare this index into a new folder")
    storage.write_bytes(storage.join(prepared, ONTOLOGY_NAME), ontology.model_dump_json(indent=1).encode())


def _of_labels(ontology: Ontology) -> Ontology:
    """The ontology without what shards and labels do not depend on."""
    plain = (entry.model_copy(update={"synonyms": (), "colour": None}) for entry in ontology.classes)
    return ontology.model_copy(update={"classes": tuple(plain)})


def mean_the_same(data: Data, dataset: str, read_as: Ontology | None) -> bool:
    """Whether class ids of scans of a data set mean what the run predicts.

    Args:
        data: Of the run.
        dataset: Of the scans.
        read_as: What own logs were read as; None where prepared shards say it (``check_classes``), or none is needed.
    """
    own = data.ontology
    names = [[entry.name for entry in each.classes] for each in (own, read_as) if each is not None]
    return dataset == data.dataset and (len(names) < 2 or names[0] == names[1])


def check_classes(data: Data, prepared: str) -> None:
    """Refuses shards whose class ids mean something else than the run's.

    Raises:
        DataError: The class names differ.
    """
    ontology = of_prepared(prepared)
    expected = data.ontology
    if ontology is None or expected is None:
        return
    names, run_names = ([entry.name for entry in each.classes] for each in (ontology, expected))
    if names != run_names:
        raise DataError(
            f"{prepared} has the classes {names}, the run predicts {run_names}: give shards of those classes"
        )
