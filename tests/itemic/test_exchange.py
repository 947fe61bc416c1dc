import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from recbole_think.artifacts import save_tensors
from recbole_think.errors import InputError
from recbole_think.itemic import exchange
from recbole_think.itemic.codes import Codes
from recbole_think.itemic.collisions import without_collisions
from recbole_think.itemic.exchange import export, file_digests, imported_codes, parsed, read_codes, read_ids, spelt
from recbole_think.itemic.options import ItemicOptions

INDEX = {"0": ["<a_5>", "<b_0>"], "1": ["<a_2>", "<b_7>"], "2": ["<a_2>", "<b_3>"]}
IDS = "film\t0\nbook one\t1\nsong\t2\n"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def files(folder, index=INDEX, ids=IDS, **more):
    """Write the two files and return options that name them."""
    (folder / "x.index.json").write_text(index if isinstance(index, str) else json.dumps(index))
    (folder / "x.item2id").write_text(ids)
    return ItemicOptions(codes_file=str(folder / "x.index.json"), ids_file=str(folder / "x.item2id"), **more)


def run_folder(folder, table, raw_ids):
    Codes(np.array(table), tuple(int(size) for size in np.max(table, 0) + 1)).save(folder / "itemic/codes.safetensors")
    exchange.write_ids(folder / "itemic" / exchange.IDS_NAME, raw_ids)
    return folder


def test_a_table_whose_rows_are_the_items_needs_no_id_map(tmp_path):
    Codes(np.array([[2, 3], [5, 0], [2, 7]]), (6, 8)).save(tmp_path / "codes.safetensors")
    options = ItemicOptions(codes_file=str(tmp_path / "codes.safetensors"))
    codes, raw, _ = imported_codes(options, ["film", "book one", "song"])
    assert codes.table.tolist() == raw.tolist() == [[2, 3], [5, 0], [2, 7]] and codes.sizes == (6, 8)
    before = file_digests(options)
    Codes(np.array([[2, 3], [5, 0], [2, 6]]), (6, 8)).save(tmp_path / "codes.safetensors")
    assert list(before) == ["content of itemic.codes_file"] and file_digests(options) != before
    with pytest.raises(InputError, match="has codes of 3 items, this catalogue has 2"):
        imported_codes(options, ["film", "book one"])
    save_tensors(tmp_path / "weights.safetensors", {"head": torch.zeros(2)})
    with pytest.raises(InputError, match="holds no code table"):
        imported_codes(ItemicOptions(codes_file=str(tmp_path / "weights.safetensors")), ["film"])
    with pytest.raises(InputError, match=r"no file .*gone\.safetensors"):
        imported_codes(ItemicOptions(codes_file="gone.safetensors"), ["film"])
    with pytest.raises(InputError, match=r"drop itemic\.ids_file"):
        ItemicOptions(codes_file="codes.safetensors", ids_file="x.item2id")


def test_codes_come_in_the_order_of_this_catalogue_whatever_the_order_of_theirs(tmp_path):
    codes, raw, figures = imported_codes(files(tmp_path), ["song", "film", "book one"])
    assert codes.table.tolist() == raw.tolist() == [[2, 3], [5, 0], [2, 7]]
    assert codes.table.dtype == np.int64 and figures == {"method": "imported"}


def test_a_level_has_as_many_codes_as_the_whole_file_uses_even_for_a_part_of_the_catalogue(tmp_path):
    codes, _, _ = imported_codes(files(tmp_path), ["song"])
    assert codes.table.tolist() == [[2, 3]] and codes.sizes == (6, 8)


@pytest.mark.parametrize("style", exchange.STYLES)
def test_what_is_exported_is_imported_again_as_it_was(style, tmp_path):
    table = [[3, 0, 11], [0, 2, 4], [3, 0, 12], [1, 1, 0]]
    raw_ids = ["B00X", "a b", "0", "ünï"]
    ids = export(run_folder(tmp_path / "run", table, raw_ids), tmp_path / "out.json", style)
    options = ItemicOptions(codes_file=str(tmp_path / "out.json"), ids_file=str(ids))
    order = [2, 0, 3, 1]
    codes, _, _ = imported_codes(options, [raw_ids[row] for row in order])
    assert codes.table.tolist() == [table[row] for row in order] and codes.sizes == (4, 3, 13)


def test_both_spellings_are_those_of_the_projects(tmp_path):
    folder = run_folder(tmp_path / "run", [[1, 2, 3, 4]], ["x"])
    export(folder, tmp_path / "plain.json", "plain")
    export(folder, tmp_path / "bound.json", "boundaries")
    assert json.loads((tmp_path / "plain.json").read_text()) == {"0": ["<a_1>", "<b_2>", "<c_3>", "<d_4>"]}
    bound = "<|sid_begin|><s_a_1><s_b_2><s_c_3><s_d_4><|sid_end|>"
    assert json.loads((tmp_path / "bound.json").read_text()) == {"0": bound}
    assert (tmp_path / "bound.item2id").read_text() == "x\t0\n"
    assert spelt([1, 2, 3, 4], "boundaries") == bound and spelt([0], "plain") == ["<a_0>"]


@pytest.mark.parametrize(
    "entry",
    [["<a_1>", "<b_20>"], "<a_1><b_20>", "<|sid_begin|><s_a_1><s_b_20><|sid_end|>", ["<s_a_1>", "<s_b_20>"],
     {"title": "a thing", "sid": "<|sid_begin|><s_a_1><s_b_20><|sid_end|>"}],
    ids=str,
)  # fmt: skip
def test_every_way_to_write_an_item_is_read(entry):
    assert parsed(entry, "here") == (1, 20)


@pytest.mark.parametrize(
    "entry",
    [[], "", ["<a_1>", "b_2"], ["<a_1>", "<c_2>"], ["<b_1>", "<a_2>"], ["<a_1>", "<a_2>"], ["<a_-1>"], ["<a_x>"],
     ["<A_1>"], [1, 2], 7, None, {"title": "no codes"}, "<|sid_begin|><s_a_1>", "<a_1> <b_2>",
     ["<a_1>", ["<b_2>"]], "<a_1><|sid_end|>", ["<a_²>"]],
    ids=str,
)  # fmt: skip
def test_a_token_that_cannot_be_read_is_named_with_its_item(entry, tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"0": ["<a_1>"], "17": entry}))
    with pytest.raises(InputError, match=r"x\.json, item '17': cannot read .* as codes"):
        read_codes(tmp_path / "x.json")


def test_a_number_no_codebook_has_is_refused(tmp_path):
    with pytest.raises(InputError, match="code 999999999 is out of reach"):
        imported_codes(files(tmp_path, {**INDEX, "2": ["<a_999999999>", "<b_1>"]}), ["film"])


def test_levels_of_different_length_are_refused(tmp_path):
    with pytest.raises(InputError, match="item '1': 3 levels, the first item has 2"):
        imported_codes(files(tmp_path, {**INDEX, "1": ["<a_2>", "<b_7>", "<c_0>"]}), ["film"])


@pytest.mark.parametrize(
    ("index", "why"),
    [('{"0": ["<a_1>"', "not readable JSON"), ("[]", "must hold one JSON object"), ("{}", "holds no items"),
     ('{"0": ["<a_1>"], "0": ["<a_2>"]}', "'0' stands twice")],
)  # fmt: skip
def test_a_damaged_file_of_codes_is_refused(index, why, tmp_path):
    with pytest.raises(InputError, match=rf"x\.index\.json.*{why}"):
        imported_codes(files(tmp_path, index), ["film"])


@pytest.mark.parametrize(
    ("ids", "why"),
    [("film\t0\nfilm\t1\n", "raw item id 'film' stands twice"),
     ("film\t0\nbook\t0\n", "internal id '0' stands for 'film' and for 'book'"),
     ("film 0\n", "line 1: expected raw id <tab> internal id"), ("film\t0\nbook\t\n", "line 2: expected")],
)  # fmt: skip
def test_a_damaged_id_map_is_refused(ids, why, tmp_path):
    with pytest.raises(InputError, match=rf"x\.item2id.*{why}"):
        imported_codes(files(tmp_path, ids=ids), ["film"])


def test_an_id_map_may_be_json_and_may_end_its_lines_in_any_way(tmp_path):
    (tmp_path / "ids.json").write_text('{"film": 0, "book": "1"}')
    (tmp_path / "ids.tsv").write_bytes(b"film\t0\r\nbook\t1\r\n\r\n")
    assert read_ids(tmp_path / "ids.json") == read_ids(tmp_path / "ids.tsv") == {"film": "0", "book": "1"}


def test_an_id_map_that_misses_items_names_the_first_and_the_count(tmp_path):
    with pytest.raises(InputError, match=r"x\.item2id misses the item 'play', the first of 2 in this data set"):
        imported_codes(files(tmp_path), ["film", "play", "dance"])


def test_too_few_codes_for_the_catalogue_are_refused(tmp_path):
    few = {key: INDEX[key] for key in ("0", "2")}
    with pytest.raises(InputError, match=r"has no codes for the item 'book one', the first of 1 in this data set"):
        imported_codes(files(tmp_path, few), ["film", "book one", "song"])


def test_codes_of_items_the_id_map_does_not_know_are_refused(tmp_path):
    more = {**INDEX, "7": ["<a_0>", "<b_0>"], "8": ["<a_0>", "<b_1>"]}
    with pytest.raises(InputError, match=r"does not know the internal id '7', the first of 2"):
        imported_codes(files(tmp_path, more), ["film"])


def test_a_file_that_is_not_there_is_refused_by_its_option(tmp_path):
    options = files(tmp_path)
    (tmp_path / "x.item2id").unlink()
    with pytest.raises(InputError, match=r"itemic\.ids_file: no file"):
        imported_codes(options, ["film"])


def test_collisions_of_imported_codes_change_the_last_code_of_as_few_items_as_possible():
    table = np.array([[0, 1], [0, 1], [1, 0], [0, 1], [0, 2]])
    result, sizes = without_collisions(table, (2, 4), "reassign")
    assert result.tolist() == [[0, 1], [0, 3], [1, 0], [0, 0], [0, 2]], "1 is kept by the first, 2 is another's"
    assert sizes == (2, 4) and table.tolist()[1] == [0, 1], "the table given is left alone"


def test_where_the_last_level_is_full_the_one_before_is_changed_too():
    result, _ = without_collisions(np.array([[0, 0, 0], [0, 0, 1], [0, 0, 1], [1, 1, 1]]), (2, 2, 2), "reassign")
    assert result.tolist() == [[0, 0, 0], [0, 0, 1], [0, 1, 1], [1, 1, 1]]
    crowd, _ = without_collisions(np.zeros((8, 3), np.int64), (2, 2, 2), "reassign")
    assert len({tuple(row) for row in crowd}) == 8
    with pytest.raises(InputError, match=r"9 items .* 2 x 2 x 2; set itemic\.collisions=extra_level or keep"):
        without_collisions(np.zeros((9, 3), np.int64), (2, 2, 2), "reassign")


def test_collisions_may_be_kept_or_counted(tmp_path):
    index = {**INDEX, "2": INDEX["1"]}
    raw_ids = ["film", "book one", "song"]
    kept, _, _ = imported_codes(files(tmp_path, index, collisions="keep"), raw_ids)
    assert kept.table.tolist() == [[5, 0], [2, 7], [2, 7]]
    counted, raw, _ = imported_codes(files(tmp_path, index, collisions="extra_level"), raw_ids)
    assert counted.table.tolist() == [[5, 0, 0], [2, 7, 0], [2, 7, 1]] and counted.sizes == (6, 8, 2)
    assert raw.shape == (3, 2)


def test_options_that_contradict_an_import_are_refused_by_name():
    both = {"codes_file": "a.json", "ids_file": "b"}
    assert ItemicOptions(**both).codes_file == "a.json"
    for half in ({"codes_file": "a.json"}, {"ids_file": "b"}):
        with pytest.raises(InputError, match=r"itemic\.codes_file and itemic\.ids_file go together"):
            ItemicOptions(**half)
    for key, value in (("levels", 3), ("size", 256), ("method", "rqvae")):
        with pytest.raises(InputError, match=rf"itemic\.{key}=.* drop one"):
            ItemicOptions(**both, **{key: value})


def test_the_digests_tell_the_content_of_both_files(tmp_path):
    options = files(tmp_path)
    before = file_digests(options)
    assert file_digests(ItemicOptions()) == {} and len(before) == 2
    (tmp_path / "x.item2id").write_text(IDS + "more\t3\n")
    after = file_digests(options)
    assert [key for key in before if before[key] != after[key]] == ["content of itemic.ids_file"]


def test_the_digests_tell_the_content_of_vector_files(tmp_path):
    path = tmp_path / "image.npy"
    np.save(path, np.zeros((3, 2)))
    options = ItemicOptions(vector_files=(str(path),))
    before = file_digests(options)
    np.save(path, np.ones((3, 2)))
    assert list(before) == ["content of itemic.vector_files[0]"] and file_digests(options) != before
    path.unlink()
    assert file_digests(options) == {}, "an absent file is refused where it is read"


def test_the_command_writes_both_files_and_says_what_it_cannot_do(tmp_path):
    folder = run_folder(tmp_path / "run", [[0, 1], [1, 0]], ["x", "y"])
    words = [sys.executable, "-m", "recbole_think.itemic.exchange", "export"]
    done = subprocess.run([*words, folder, "out.json", "--style", "boundaries"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split() == ["out.json", "out.item2id"], done.stderr
    assert read_codes(tmp_path / "out.json") == {"0": (0, 1), "1": (1, 0)}
    assert exchange.main(["export", str(tmp_path), "other.json"]) == 2
    assert not (tmp_path / "other.json").exists()


def test_a_run_takes_imported_codes_and_notices_when_a_file_has_changed(toy_path, tmp_path):
    from recbole_think.config import ThinkConfig
    from recbole_think.experiment import prepare
    from recbole_think.model import OneRecThink
    from tests.toy import N_ITEMS, settings

    index = {str(place): [f"<a_{place // 5}>", f"<b_{place % 5}>"] for place in range(N_ITEMS)}
    given = files(tmp_path, index, "".join(f"p{place}\t{place}\n" for place in range(N_ITEMS)))
    config = ThinkConfig("OneRecThink", "toy", config_dict=settings("OneRecThink", toy_path, tmp_path / "run"), argv=[
        "--itemic.codes_file=x.index.json", "--itemic.ids_file=x.item2id", "--itemic.levels=0", "--itemic.size=0",
    ])  # fmt: skip
    assert config["itemic"]["codes_file"] == given.codes_file, "a run works in its own folder"
    config["checkpoint_dir"] = str(tmp_path / "run" / "checkpoints")
    data = prepare(config)
    model = OneRecThink(config, data.train.dataset)
    names = data.train.dataset.field2id_token["item_id"][1:]
    assert model.codes.table.tolist() == [list(divmod(int(name[1:]), 5)) for name in names]
    assert model.health["method"] == "imported" and model.health["collisions_before"] == 0
    export(tmp_path / "run", tmp_path / "again.json", "plain")
    again = imported_codes(ItemicOptions(codes_file="again.json", ids_file="again.item2id"), list(names))[0]
    assert again.table.tolist() == model.codes.table.tolist()
    assert (OneRecThink(config, data.train.dataset).codes.table == model.codes.table).all(), "read back"
    (tmp_path / "x.index.json").write_text(json.dumps({**index, "0": index["1"], "1": index["0"]}))
    with pytest.raises(InputError, match=r"made with content of itemic\.codes_file="):
        OneRecThink(config, data.train.dataset)
