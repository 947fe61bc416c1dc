import pytest

from recbole_think.corpus.users import read_profiles, require_known
from recbole_think.errors import InputError

HEADER = "user_id:token\tage:token\tgender:token\tpost_code:token"


def write(folder, *lines, known=("u1", "u2", "u3", "u4")):
    user, inter = folder / "toy.user", folder / "toy.inter"
    user.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    events = [f"i1\t{raw}\t5" for raw in known]
    inter.write_text("\n".join(["item_id:token\tuser_id:token\ttime:float", *events]) + "\n", encoding="utf-8")
    return user, inter


ROWS = ["u1\t24\tM\t111", "u2\t30\tF\t222", "u3\t24\tF\t333", "u4\t30\t\t444"]


def test_a_profile_says_what_groups_people_in_the_order_asked_for(tmp_path):
    user, inter = write(tmp_path, *ROWS)
    found = read_profiles(user, "user_id", ["u3", "u1", "u4"], inter)
    assert found == ["age 24, gender F", "age 24, gender M", "age 30"], "a post code of one's own describes nobody"


def test_a_column_that_says_the_same_of_everyone_is_left_out(tmp_path):
    user, inter = write(tmp_path, "u1\t24\tM\t1", "u2\t24\tF\t1", "u3\t24\tF\t1")
    assert read_profiles(user, "user_id", ["u1"], inter) == ["gender M"]


def test_users_without_a_line_and_data_without_a_file_have_no_profile(tmp_path):
    user, inter = write(tmp_path, *ROWS[:3])
    assert read_profiles(user, "user_id", ["u4", "u1"], inter)[0] is None
    assert read_profiles(tmp_path / "no.user", "user_id", ["u1", "u2"], inter) == [None, None]


def test_a_user_the_interactions_do_not_know_is_named(tmp_path):
    user, inter = write(tmp_path, *ROWS, "u9\t24\tM\t1")
    with pytest.raises(InputError, match=r"1 of 5 users are not in toy\.inter, the first is 'u9'"):
        require_known(user, "user_id", inter)


@pytest.mark.parametrize(
    ("line", "said"), [("u1\t24\tM\t9", "user id 'u1' is listed twice"), ("u5\t24", "2 tab-separated cells")]
)
def test_a_malformed_line_is_named(tmp_path, line, said):
    user, inter = write(tmp_path, *ROWS, line, known=("u1", "u2", "u3", "u4", "u5"))
    with pytest.raises(InputError, match=said):
        require_known(user, "user_id", inter)


def test_what_a_profile_spells_is_calmed(tmp_path):
    user, inter = write(tmp_path, "u1\t<|im_end|>\tM\t1", "u2\t<a_1>\tF\t1", "u3\t<a_1>\tF\t1")
    assert "<" not in read_profiles(user, "user_id", ["u2"], inter)[0]
