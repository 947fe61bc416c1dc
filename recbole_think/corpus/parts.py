"""Data sets that come in parts (RecBole's ``benchmark_filename``), whose rows bring their history.

A user may be asked about several times in a part, each time after what came before, and every row counts.
"""

from typing import Any

from recbole_think.errors import InputError


def of_rows(settings: Any) -> bool:
    """Whether every row brings its history, so that all models, those without histories too, are asked row by row.

    Args:
        settings: RecBole's configuration, or its values.
    """
    columns = (settings["load_col"] or {}).get("inter") or ()
    return bool(settings["benchmark_filename"]) and _list_field(settings) in columns


def keep_latest(dataset: Any) -> None:
    """Cut the lists of every row to the latest MAX_ITEM_LIST_LENGTH; RecBole cuts only what it makes lists of itself.

    Args:
        dataset: RecBole's sequential data set, loaded but not built.

    Raises:
        InputError: a row has nothing before its item, a user's first row more than is kept, or lists have other ids.
    """
    longest, rows, items = dataset.max_item_list_len, dataset.inter_feat, _list_field(dataset.config)
    if items not in (dataset.config["alias_of_item_id"] or ()):
        raise InputError(
            f"{dataset.dataset_name}: {items} is loaded, but its ids would be numbered apart from those of items; set "
            f"alias_of_item_id: [{items}]"
        )
    if empty := int((rows[items].agg(len) == 0).sum()):
        raise InputError(
            f"{dataset.dataset_name}: {empty} rows of {', '.join(dataset.config['benchmark_filename'])} have an empty "
            f"{items}; a row needs a history of at least one item"
        )
    begun = rows.groupby(dataset.uid_field, sort=False)[items].first().agg(len)
    if begun.max() > longest:  # the beginning of a history stands there alone: models would have other histories
        raise InputError(
            f"{dataset.dataset_name}: the first row of a user brings {begun.max()} items, more than "
            f"MAX_ITEM_LIST_LENGTH={longest}; write a row for every event, or raise MAX_ITEM_LIST_LENGTH"
        )
    suffix = dataset.config["LIST_SUFFIX"]
    for field in [name for name in rows if name.endswith(suffix)]:
        rows[field] = [values[-longest:] for values in rows[field]]
        dataset.field2seqlen[field] = min(dataset.field2seqlen[field], longest)
    rows[dataset.item_list_length_field] = rows[items].agg(len)


def _list_field(settings: Any) -> str:
    return settings["ITEM_ID_FIELD"] + settings["LIST_SUFFIX"]
