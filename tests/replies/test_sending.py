"""Sending: once per key, after the leaf that was on the page, or refused with nothing lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

from django.db import IntegrityError, connection, connections
from django.test import override_settings

from conversations.llm.scripted import ScriptedProvider
from conversations.models import Conversation, Message, Reply, ReplyState
from conversations.replies import sending
from conversations.replies.sending import (
    Draft,
    retry_reply,
    start_conversation,
    start_reply,
    stop_reply,
    withdraw_reply,
)
from tests import cast

from .harness import MODEL, ReplyTestCase, catalog_of, draft


class SendingTests(ReplyTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.enterContext(catalog_of(ScriptedProvider()))

    def test_the_same_key_gives_the_same_reply(self) -> None:
        once = draft("Hello?")
        first = start_conversation(user=self.alice, draft=once)
        self.assertEqual(start_conversation(user=self.alice, draft=once), first)
        self.assertEqual((Message.objects.count(), Conversation.objects.count()), (1, 1))

    def test_the_same_key_with_another_text_is_refused(self) -> None:
        key = uuid4()
        self.start("Hello?", key=key)
        with self.assertRaises(sending.KeyReused):
            self.start("Something else", key=key)

    def test_a_double_click_sends_once(self) -> None:
        once = draft("Hello?")

        def click(_: int) -> Reply:
            try:
                return start_conversation(user=self.alice, draft=once)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(8) as pool:
            replies = set(pool.map(click, range(8)))
        self.assertEqual((len(replies), Message.objects.count(), Reply.objects.count()), (1, 1, 1))

    def test_a_double_click_in_a_conversation_sends_once_and_refuses_nothing(self) -> None:
        conversation = self._answered()
        once = draft("And then?", leaf_id=conversation.leaf_id)

        def click(_: int) -> Reply:
            try:
                return start_reply(user=self.alice, conversation_id=conversation.pk, draft=once)
            finally:
                connections.close_all()

        with ThreadPoolExecutor(8) as pool:
            replies = set(pool.map(click, range(8)))
        self.assertEqual((len(replies), Reply.objects.filter(idempotency_key=once.key).count()), (1, 1))

    def test_two_tabs_that_send_different_messages_give_one_reply_and_one_refusal(self) -> None:
        conversation = self._answered()

        def send(text: str) -> type[Exception] | None:
            try:
                start_reply(
                    user=self.alice,
                    conversation_id=conversation.pk,
                    draft=draft(text, leaf_id=conversation.leaf_id),
                )
            except sending.SendRefused as refusal:
                return type(refusal)
            finally:
                connections.close_all()
            return None

        with ThreadPoolExecutor(2) as pool:
            results = list(pool.map(send, ["from one tab", "from the other"]))
        self.assertEqual(results.count(None), 1)
        self.assertIn(sending.LeafMoved, results)
        self.assertEqual(Message.objects.filter(role="user").count(), 2)

    def test_a_leaf_that_moved_is_refused_and_the_key_stays_good(self) -> None:
        conversation = self._answered()
        old_leaf = conversation.leaf_id
        stop_reply(self.send(conversation, "Meanwhile"))
        late = draft("Late", leaf_id=old_leaf)
        with self.assertRaises(sending.LeafMoved):
            start_reply(user=self.alice, conversation_id=conversation.pk, draft=late)
        at_end = Draft(text=late.text, key=late.key, model=late.model, leaf_id=late.leaf_id, place="end")
        reply = start_reply(user=self.alice, conversation_id=conversation.pk, draft=at_end)
        assert reply.question.parent is not None
        self.assertEqual(reply.question.parent.content, "Meanwhile")

    def test_a_late_message_can_go_as_a_branch(self) -> None:
        conversation = self._answered()
        old_leaf = conversation.leaf_id
        stop_reply(self.send(conversation, "Meanwhile"))
        reply = self.send(conversation, "Instead", leaf_id=old_leaf, place="branch")
        conversation.refresh_from_db()
        self.assertEqual((reply.question.parent_id, conversation.leaf_id), (old_leaf, reply.question_id))

    def test_a_branch_grows_from_a_message_of_the_same_conversation_alone(self) -> None:
        conversation, other = self._answered(), self._answered()
        with self.assertRaises(sending.BranchUnknown):
            self.send(conversation, "Hi", leaf_id=other.leaf_id, place="branch")

    def test_a_conversation_that_no_model_has_named_goes_by_the_first_words_of_its_question(self) -> None:
        conversation = self.start("How do I cut over\nwithout downtime?").conversation
        self.assertEqual(conversation.title, "How do I cut over without downtime?")
        self.assertTrue(conversation.is_unnamed)

    def test_a_message_that_is_sent_while_a_reply_runs_waits_for_it(self) -> None:
        reply = self.start()
        second = self.send(reply.conversation, "And then?")
        third = self.send(reply.conversation, "And then?")
        self.assertEqual({second.state, third.state}, {ReplyState.WAITING})
        reply.conversation.refresh_from_db()
        self.assertEqual(reply.conversation.leaf_id, reply.question_id)

    def test_while_a_reply_runs_no_other_is_begun_beside_it(self) -> None:
        reply = self.start()
        with self.assertRaises(sending.ReplyRunning):
            retry_reply(reply, key=uuid4())
        with self.assertRaises(sending.ReplyRunning):
            self.send(reply.conversation, "Instead", leaf_id=None, place="branch")

    def test_a_message_that_waits_can_be_taken_back(self) -> None:
        reply = self.start()
        waiting = self.send(reply.conversation, "Never mind")
        self.assertEqual(withdraw_reply(waiting), "Never mind")
        self.assertEqual((Message.objects.count(), Reply.objects.count()), (1, 1))
        with self.assertRaises(sending.AlreadyBegun):
            withdraw_reply(reply)

    def test_a_person_has_three_replies_at_once_and_the_others_wait(self) -> None:
        states = [self.start(f"Question {n}").state for n in range(5)]
        self.assertEqual(states, ["queued"] * 3 + ["waiting"] * 2)
        theirs = start_conversation(user=cast.bob(), draft=draft("Mine"))
        self.assertEqual(theirs.state, ReplyState.QUEUED)

    def test_two_sends_at_once_never_make_a_fourth(self) -> None:
        for n in range(2):
            self.start(f"Question {n}")

        def send(n: int) -> str:
            try:
                return start_conversation(user=self.alice, draft=draft(f"At once {n}")).state
            finally:
                connections.close_all()

        with ThreadPoolExecutor(6) as pool:
            states = list(pool.map(send, range(6)))
        self.assertEqual((states.count("queued"), states.count("waiting")), (1, 5))

    def test_the_answer_that_came_while_one_wrote_is_what_the_message_follows(self) -> None:
        conversation = self._answered()
        question = Message.objects.get(conversation=conversation, role="user")
        reply = self.send(conversation, "Thanks, and?", leaf_id=question.pk)
        self.assertEqual(reply.question.parent_id, conversation.leaf_id)

    def test_nothing_is_too_long_up_to_one_mebibyte_and_everything_above(self) -> None:
        with override_settings(MAX_MESSAGE_BYTES=10):
            self.start("æ" * 5)
            with self.assertRaises(sending.MessageTooLong):
                self.start("æ" * 5 + "!")

    def test_white_space_is_not_a_message(self) -> None:
        with self.assertRaises(sending.MessageEmpty):
            self.start(" \n\t ")
        self.assertEqual(Conversation.objects.count(), 0)

    def test_what_the_database_cannot_hold_is_replaced(self) -> None:
        reply = self.start("a\0b\ud800c")
        self.assertEqual(reply.question.content, "a\ufffdb\ufffdc")

    def test_a_model_that_is_gone_is_refused_by_name(self) -> None:
        with self.assertRaisesMessage(
            sending.NoModel, "gpt-9 is not available any more. Choose another model."
        ):
            self.start(model="openai/gpt-9")

    def test_every_refusal_has_a_sentence_and_a_status(self) -> None:
        for refusal in sending.SendRefused.__subclasses__():
            bare = refusal.__new__(refusal)
            self.assertTrue(bare.sentence.endswith("."), refusal)
            self.assertIn(bare.status, {402, 409, 413, 422})

    def _answered(self) -> Conversation:
        reply = self.start()
        answer = Message.objects.create(
            conversation=reply.conversation, parent=reply.question, role="assistant", content="Hi."
        )
        Reply.objects.filter(pk=reply.pk).update(state=ReplyState.COMPLETE, answer=answer)
        Conversation.objects.filter(pk=reply.conversation_id).update(leaf=answer)
        return Conversation.objects.get(pk=reply.conversation_id)


class DatabaseTests(ReplyTestCase):
    """What the database refuses, whoever asks."""

    def test_a_second_unfinished_reply_is_refused(self) -> None:
        with catalog_of(ScriptedProvider()):
            reply = self.start()
        with self.assertRaises(IntegrityError):
            Reply.objects.create(
                user=self.alice,
                conversation=reply.conversation,
                question=reply.question,
                model=MODEL,
                max_tokens=1,
                idempotency_key=uuid4(),
            )

    def test_unknown_roles_and_states_are_refused(self) -> None:
        with catalog_of(ScriptedProvider()):
            reply = self.start()
        with self.assertRaises(IntegrityError):
            Message.objects.update(role="system")
        with self.assertRaises(IntegrityError):
            Reply.objects.filter(pk=reply.pk).update(state="lost")
        with self.assertRaises(IntegrityError):
            Conversation.objects.update(temperature=3.0)

    def test_deleting_a_conversation_in_the_database_leaves_no_orphan(self) -> None:
        with catalog_of(ScriptedProvider()):
            self.start()
        with connection.cursor() as cursor:
            cursor.execute("DELETE FROM conversations")
        self.assertEqual((Message.objects.count(), Reply.objects.count()), (0, 0))
