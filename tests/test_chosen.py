"""What is done with chosen trials, beside the measuring that whole sweeps show."""

import logging

from cnn_sweeps.selection.champion import logged_to


def test_log_of_the_block_is_in_the_file_alone_and_the_handlers_of_before_are_back_after_it(tmp_path, caplog):
    root = logging.getLogger()
    before = root.handlers, root.level
    with logged_to(tmp_path / "block.log"):
        logging.getLogger("any").info("inside")
    assert (root.handlers, root.level) == before
    logging.getLogger("any").warning("after")
    assert (tmp_path / "block.log").read_text() == "inside\n"
    assert caplog.messages == ["after"]
