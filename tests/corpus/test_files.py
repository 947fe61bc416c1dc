import pytest

from recbole_think.corpus.files import header, require_dataset
from recbole_think.errors import InputError

COLUMNS = ["user_id", "item_id", "timestamp"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write(folder, first="user_id:token\titem_id:token\ttimestamp:float", name="toy"):
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.inter"
    path.write_text(first + "\nu\ti\t1\n", encoding="utf-8")
    return path


def test_a_data_set_with_all_its_columns_is_accepted(tmp_path):
    write(tmp_path / "toy")
    assert require_dataset(tmp_path / "toy", "toy", COLUMNS) is None, "nothing is raised"


def test_a_data_set_found_nowhere_names_the_file_and_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"'toy' was not found: .*toy\.inter.*--data_path"):
        require_dataset(tmp_path / "toy", "toy", COLUMNS)


def test_a_name_recbole_can_download_may_be_absent_and_a_like_one_is_suggested(tmp_path):
    require_dataset(tmp_path / "amazon-beauty", "amazon-beauty", COLUMNS, ["amazon-beauty", "ml-1m"])
    with pytest.raises(InputError, match="such as amazon-beauty"):
        require_dataset(tmp_path / "beauty", "beauty", COLUMNS, ["amazon-beauty", "ml-1m"])


def test_a_folder_without_the_file_is_an_error_even_for_a_downloadable_name(tmp_path):
    (tmp_path / "ml-1m").mkdir()
    with pytest.raises(InputError, match="was not found"):
        require_dataset(tmp_path / "ml-1m", "ml-1m", COLUMNS, ["ml-1m"])


def test_a_missing_column_is_named_with_the_nearest_one_and_all_there_are(tmp_path):
    write(tmp_path / "toy", "userid:token\titem_id:token\ttimestamp:float")
    with pytest.raises(InputError, match=r"no column 'user_id'; did you mean userid\? \(it has: userid, item_id"):
        require_dataset(tmp_path / "toy", "toy", COLUMNS)


@pytest.mark.parametrize(
    "first",
    ["user_id,item_id,timestamp", "user_id item_id", "", "user_id:token\titem_id", "user_id:str\titem_id:token"],
)
def test_a_first_line_that_is_no_header_is_refused(first, tmp_path):
    write(tmp_path / "toy", first)
    with pytest.raises(InputError, match="name:type"):
        require_dataset(tmp_path / "toy", "toy", COLUMNS)


def test_a_header_gives_every_column_and_its_type_in_order(tmp_path):
    path = write(tmp_path / "toy", "a:token\tb:token_seq\tc:float\td:float_seq\r")
    assert list(header(path).items()) == [("a", "token"), ("b", "token_seq"), ("c", "float"), ("d", "float_seq")]


def test_a_header_that_is_not_utf8_is_said_to_be_so(tmp_path):
    path = tmp_path / "toy.inter"
    path.write_bytes("caf\xe9:token\n".encode("latin1"))
    with pytest.raises(InputError, match="not UTF-8"):
        header(path)


def test_a_column_named_twice_is_refused(tmp_path):
    path = write(tmp_path / "toy", "user_id:token\titem_id:token\titem_id:token")
    with pytest.raises(InputError, match="item_id"):
        header(path)
