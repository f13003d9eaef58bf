import logging

from ray.exceptions import ActorDiedError

from ray_lidarseg.runtime.deaths import deaths_untold


def test_of_a_process_that_died_no_traceback_is_shown_and_of_anything_else_it_is(caplog):
    log = logging.getLogger("a.test.of.it")
    with deaths_untold("a.test"), caplog.at_level(logging.ERROR, log.name):
        log.error("died", exc_info=ActorDiedError())
        log.error("wrong", exc_info=ValueError("of a trial"))
        log.error("said")
    log.error("died later", exc_info=ActorDiedError())
    assert [record.message for record in caplog.records] == ["wrong", "said", "died later"]
